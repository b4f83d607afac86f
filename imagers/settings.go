// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package imagers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"cocoon/imagers/registry"
	"cocoon/imagers/verify"
	"cocoon/internal/bounded"
	"cocoon/internal/stage"
)

// maxDocument bounds a credentials or policy file.
const maxDocument = 1 << 20

// load returns the settings. They are fetched once; an attempt that fails is
// repeated by the next pull.
func (p *Puller) load(ctx context.Context) (*settings, error) {
	if err := p.setup.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer p.setup.Release(1)
	if p.settings != nil {
		return p.settings, nil
	}
	s := &settings{}
	if p.config.AuthURI != "" {
		data, err := p.document(ctx, p.config.AuthURI)
		if err != nil {
			return nil, fmt.Errorf("get registry credentials: %w", err)
		}
		if s.credentials, err = registry.ParseCredentials(data); err != nil {
			return nil, stage.Wrap(stage.Config, err)
		}
	}
	policy := []byte(p.config.Policy)
	if p.config.PolicyURI != "" {
		var err error
		if policy, err = p.document(ctx, p.config.PolicyURI); err != nil {
			return nil, fmt.Errorf("get image policy: %w", err)
		}
	}
	if p.config.PolicyURI != "" || p.config.Policy != "" {
		var err error
		if s.policy, err = verify.Parse(policy); err != nil {
			return nil, err
		}
	} else {
		p.log.Warn("no image policy is configured: images of any origin are accepted")
	}
	p.settings = s
	return s, nil
}

// document fetches a small document by its address.
func (p *Puller) document(ctx context.Context, uri string) (data []byte, err error) {
	scheme, rest, ok := strings.Cut(uri, "://")
	switch {
	case !ok:
		return readFile(uri)
	case scheme == "file":
		return readFile(rest)
	case scheme == "kbs" || strings.HasPrefix(scheme, "kbs+"):
		if p.deps.Resources == nil {
			return nil, stage.Errorf(stage.Config, "get %q: no source of resources is configured", uri)
		}
		if data, err = p.deps.Resources.Resource(ctx, uri); err != nil {
			return nil, fmt.Errorf("get %q: %w", uri, err)
		}
		if len(data) > maxDocument {
			return nil, stage.Errorf(stage.Config, "get %q: %w", uri, bounded.ErrTooLarge)
		}
		return data, nil
	default:
		return nil, stage.Errorf(stage.Config, "get %q: unknown scheme", uri)
	}
}

func readFile(name string) (data []byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, stage.Wrap(stage.Config, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err = bounded.ReadAll(f, maxDocument)
	if err != nil {
		return nil, stage.Errorf(stage.Config, "read %q: %w", name, err)
	}
	return data, nil
}
