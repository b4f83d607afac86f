// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"cocoon/agent"
	"cocoon/attest"
	"cocoon/cdh"
	"cocoon/cdh/rest"
	"cocoon/imagers"
)

// puller gives the agent the image puller, for at most limit each time.
type puller struct {
	p     *imageStore
	limit time.Duration
}

func (p puller) Pull(ctx context.Context, req agent.PullRequest) (agent.PullResult, error) {
	ctx, cancel := context.WithTimeout(ctx, p.limit)
	defer cancel()
	res, err := p.p.Pull(ctx, imagers.Request{Image: req.Image, Bundle: req.Bundle, Metadata: req.Metadata})
	if err != nil {
		return agent.PullResult{}, err
	}
	cfg, err := json.Marshal(res.Config)
	if err != nil {
		return agent.PullResult{}, fmt.Errorf("encode the configuration of image %q: %w", req.Image, err)
	}
	return agent.PullResult{Digest: res.ManifestDigest.String(), Config: cfg}, nil
}

func (p puller) Release(ctx context.Context, bundle string) error { return p.p.Release(ctx, bundle) }

// resources gives the image puller the data hub.
type resources struct{ hub *cdh.Hub }

func (r resources) Resource(ctx context.Context, uri string) ([]byte, error) {
	return r.hub.GetResource(ctx, uri)
}

// measurer gives the REST API the runtime measurements.
type measurer struct{ a *attest.Agent }

func (m measurer) extend(ctx context.Context, domain, operation, content string) (rest.Measurement, error) {
	r, err := m.a.ExtendRuntimeMeasurement(ctx, attest.Event{Domain: domain, Operation: operation, Content: content})
	return rest.Measurement(r), err
}
