// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cdh is the confidential data hub: it fetches resources from the key
// broker, unwraps image keys and unseals secrets, for the guest itself and for
// clients of its socket.
//
// Everything that it is asked comes from someone who may lie: annotations from
// a registry, sealed secrets from the host, resource names from the workload.
// Which resources a guest may have at all is decided by the broker, on the
// evidence of the hardware. Secrets are handed out, never kept and never
// logged.
package cdh

import (
	"context"
	"errors"
	"log/slog"

	"cocoon/internal/stage"
)

// Broker fetches one resource. The slice it returns belongs to the caller, who
// wipes it; a Broker that caches hands out copies. Errors carry a stage and name
// the resource.
type Broker interface {
	Resource(ctx context.Context, plugin, path, query string) ([]byte, error)
}

// DefaultSealDir holds verification keys of sealed secrets by name.
const DefaultSealDir = "/run/confidential-containers/cdh/sealed-secret"

// Config sets the hub up.
type Config struct {
	// SkipSealedSecretVerification opens sealed secrets whoever made them.
	SkipSealedSecretVerification bool
	// SealDir overrides DefaultSealDir.
	SealDir string
}

// Deps is what the hub works with. Broker is required; a nil Log discards.
type Deps struct {
	Broker Broker
	Log    *slog.Logger
}

// Hub answers requests for secrets. It keeps no state between them.
type Hub struct {
	cfg Config
	dep Deps
}

// errNoBroker is returned where no key broker is configured.
var errNoBroker = errors.New("no key broker is configured")

// New returns a hub.
func New(cfg Config, dep Deps) *Hub {
	if cfg.SealDir == "" {
		cfg.SealDir = DefaultSealDir
	}
	if dep.Log == nil {
		dep.Log = slog.New(slog.DiscardHandler)
	}
	if dep.Broker == nil {
		dep.Broker = noBroker{}
	}
	return &Hub{cfg: cfg, dep: dep}
}

type noBroker struct{}

func (noBroker) Resource(context.Context, string, string, string) ([]byte, error) {
	return nil, stage.Wrap(stage.Config, errNoBroker)
}

// GetResource fetches the resource that uri names, byte for byte. The caller
// owns the result.
func (h *Hub) GetResource(ctx context.Context, uri string) ([]byte, error) {
	r, err := ParseResource(uri)
	if err != nil {
		return nil, stage.Errorf(stage.Config, "parse resource URI: %w", err)
	}
	return h.dep.Broker.Resource(ctx, r.Plugin, r.Path, r.Query)
}

// wipe overwrites a secret that is no longer needed.
func wipe(b []byte) { clear(b) }
