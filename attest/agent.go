// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package attest is the attestation agent: it proves the guest to others, by
// evidence of its TEE and by tokens that a key broker gives for it.
//
// Trust: configuration must come from a measured source. Callers of the socket
// are root in the guest; the token they can ask for holds a private key. The
// key broker is not trusted with more than package attest/kbs says.
package attest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cocoon/attest/cocoas"
	"cocoon/attest/eventlog"
	"cocoon/attest/kbs"
	"cocoon/internal/stage"
)

// Errors that callers branch on.
var (
	// ErrNoKBS is returned where a key broker is needed and none is configured.
	ErrNoKBS = errors.New("kbs token config not configured")
	// ErrNoAS is returned where an attestation service is needed and none is
	// configured.
	ErrNoAS = errors.New("coco_as token config not configured")
	// ErrTokenType is returned for a token type that the agent does not give.
	ErrTokenType = errors.New("token type not supported")
	// ErrUnsupported is returned for what the TEE cannot do.
	ErrUnsupported = errors.New("not supported by the TEE")
)

// Attester is the guest's TEE or one of its devices.
type Attester interface {
	// TEE is the platform's name on the wire.
	TEE() string
	// Evidence returns JSON evidence with reportData bound into it.
	Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error)
}

// Deps is what an Agent works with. Attester is required.
type Deps struct {
	Attester Attester
	Devices  []Attester       // attached devices that can attest, in wire-name order
	InitData []byte           // exact initdata TOML text, empty if there is none
	Log      *slog.Logger     // nil discards
	Now      func() time.Time // nil means time.Now
	// PinRoots trusts only the configured root certificates, not the system's.
	PinRoots bool
	// HTTPTimeout and Deadline are those of kbs.Config.
	HTTPTimeout, Deadline time.Duration
}

// Agent answers for the guest. It is safe for concurrent use.
type Agent struct {
	cfg  Config
	deps Deps
	kbs  *kbs.Client    // nil if no key broker is configured
	as   *cocoas.Client // nil if no attestation service is configured

	journal *eventlog.Journal // nil if nothing is measured
}

// New returns an agent. It opens no connection: a key broker that cannot be
// reached is an error of the calls that need it.
func New(cfg Config, deps Deps) (*Agent, error) {
	if deps.Attester == nil {
		return nil, stage.Errorf(stage.Config, "attestation agent without an attester")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	a := &Agent{cfg: cfg, deps: deps}
	if as := cfg.Tokens.CoCoAS; as != nil {
		client, err := cocoas.New(cocoas.Config{
			URL: as.URL, RootCertsPEM: []byte(as.Cert), PinRoots: deps.PinRoots, Timeout: deps.HTTPTimeout, Now: deps.Now,
		})
		if err != nil {
			return nil, fmt.Errorf("configure attestation service: %w", err)
		}
		a.as = client
	}
	k := cfg.Tokens.KBS
	if k == nil {
		return a, nil
	}
	client, err := kbs.New(kbs.Config{
		URL: k.URL, RootCertsPEM: []byte(k.Cert), PinRoots: deps.PinRoots,
		TEEKeyAlgorithm: k.TEEKeyAlgorithm, InitData: deps.InitData,
		Proxy:       kbs.Proxy{HTTPS: k.HTTPSProxy, HTTP: k.HTTPProxy, No: k.NoProxy},
		HTTPTimeout: deps.HTTPTimeout, Deadline: deps.Deadline,
		Log: deps.Log, Now: deps.Now,
	}, a)
	if err != nil {
		return nil, fmt.Errorf("configure key broker: %w", err)
	}
	a.kbs = client
	return a, nil
}

// Close ends a running attestation, waits for it, and closes the event log.
func (a *Agent) Close() error {
	var errs []error
	if a.kbs != nil {
		errs = append(errs, a.kbs.Close())
	}
	if a.journal != nil {
		errs = append(errs, a.journal.Close())
	}
	return errors.Join(errs...)
}

// TEE returns the platform's name on the wire.
func (a *Agent) TEE() string { return a.deps.Attester.TEE() }

// AdditionalTEEs returns the names of the attached devices.
func (a *Agent) AdditionalTEEs() []string {
	names := make([]string, 0, len(a.deps.Devices))
	for _, d := range a.deps.Devices {
		names = append(names, d.TEE())
	}
	return names
}

// Evidence returns the TEE's evidence as JSON text, with runtimeData bound into
// it as it is.
func (a *Agent) Evidence(ctx context.Context, runtimeData []byte) (json.RawMessage, error) {
	if a.journal != nil {
		thaw, err := a.journal.Freeze(ctx)
		if err != nil {
			return nil, stage.Wrap(stage.Evidence, err)
		}
		defer thaw()
	}
	b, err := a.deps.Attester.Evidence(ctx, runtimeData)
	if err != nil {
		return nil, stage.Errorf(stage.Evidence, "%s evidence: %w", a.TEE(), err)
	}
	return b, nil
}

// AdditionalEvidence returns a JSON object from device name to evidence, or
// nothing if there is no device.
func (a *Agent) AdditionalEvidence(ctx context.Context, runtimeData []byte) ([]byte, error) {
	if len(a.deps.Devices) == 0 {
		return nil, nil
	}
	all := make(map[string]json.RawMessage, len(a.deps.Devices))
	for _, d := range a.deps.Devices {
		b, err := d.Evidence(ctx, runtimeData)
		if err != nil {
			return nil, stage.Errorf(stage.Evidence, "%s evidence: %w", d.TEE(), err)
		}
		all[d.TEE()] = b
	}
	b, err := json.Marshal(all)
	if err != nil {
		return nil, stage.Errorf(stage.Evidence, "encode device evidence: %w", err)
	}
	return b, nil
}

// kbsToken is the content of a token of type "kbs".
type kbsToken struct {
	Token  string `json:"token"`
	KeyPEM string `json:"tee_keypair"`
}

// Token returns a token of the given type. Type "kbs" is JSON text with a JWT
// and the TEE private key that it is bound to; a token is reused until shortly
// before it expires. Type "coco_as" is the JWT of an attestation service about
// evidence without report data, bound to nothing. The result is secret.
func (a *Agent) Token(ctx context.Context, tokenType string) ([]byte, error) {
	if tokenType == "coco_as" {
		return a.asToken(ctx)
	}
	if tokenType != "kbs" {
		return nil, stage.Errorf(stage.Config, "%w: %.32q", ErrTokenType, tokenType)
	}
	if a.kbs == nil {
		return nil, stage.Wrap(stage.Config, ErrNoKBS)
	}
	t, err := a.kbs.Token(ctx)
	if err != nil {
		return nil, err
	}
	return json.Marshal(kbsToken{Token: t.JWT, KeyPEM: string(t.KeyPEM)})
}

func (a *Agent) asToken(ctx context.Context) ([]byte, error) {
	if a.as == nil {
		return nil, stage.Wrap(stage.Config, ErrNoAS)
	}
	e, err := a.Evidence(ctx, nil)
	if err != nil {
		return nil, err
	}
	return a.as.Token(ctx, a.TEE(), e)
}

// Resource fetches one secret from the key broker; see kbs.Client.Resource.
func (a *Agent) Resource(ctx context.Context, plugin, path, query string) ([]byte, error) {
	if a.kbs == nil {
		return nil, stage.Wrap(stage.Config, ErrNoKBS)
	}
	return a.kbs.Resource(ctx, plugin, path, query)
}
