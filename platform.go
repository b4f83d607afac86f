// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	goruntime "runtime"
	"strings"

	"cocoon/attest"
	"cocoon/attest/eventlog"
	"cocoon/attest/tee"
	"cocoon/attest/tee/sample"
	"cocoon/internal/config"
	"cocoon/internal/stage"
)

// errNoTEE means that nothing here can prove what runs.
var errNoTEE = errors.New("this machine has no TEE, or its driver is missing")

// bindInitdata finds the TEE and has it confirm the owner's document, or that
// there is none, before anything of the document is used.
func (g *guest) bindInitdata(ctx context.Context) error {
	override := g.profile.tee
	if g.opt.tee != "" {
		override = g.opt.tee
	}
	kind, err := tee.Detect(tee.Platform{
		Root: "/", Arch: goruntime.GOARCH, Override: override,
		HCLType: func() (uint32, error) { return tee.HCLType(ctx) },
	})
	if err != nil {
		return err
	}
	if kind == tee.Sample && g.profile.needsTEE {
		return fmt.Errorf("image of profile %q: %w", g.profile.name, errNoTEE)
	}
	if g.tee, err = tee.New(kind, filepath.Join(g.path(eventlog.Dir), eventlog.File)); err != nil {
		return stage.Wrap(stage.Evidence, err)
	}
	if err := g.confirm(ctx, kind); err != nil {
		return err
	}
	if g.inputs.initdata == nil || g.inputs.pod != nil {
		return nil // user-data has written its files
	}
	if err := g.inputs.initdata.Write(g.path(initdataDir)); err != nil {
		return stage.Wrap(stage.Initdata, err)
	}
	return nil
}

// confirm asks the TEE. Only the sample TEE, which proves nothing anyway, may
// lack a place for the digest of a document.
func (g *guest) confirm(ctx context.Context, kind tee.Kind) error {
	if g.inputs.initdata == nil {
		return attest.ConfirmNoInitData(ctx, g.tee)
	}
	err := attest.BindInitData(ctx, g.tee, g.inputs.initdata.Digest())
	if errors.Is(err, attest.ErrUnsupported) && kind == tee.Sample {
		g.log.Warn("the sample TEE confirms no initdata")
		return nil
	}
	return err
}

// startAttestation makes the attestation agent. The key broker is not
// contacted before somebody needs it.
func (g *guest) startAttestation(ctx context.Context) error {
	cfg, err := attest.ParseConfig(g.cfg.AA)
	if err != nil {
		return stage.Wrap(stage.Config, err)
	}
	for _, key := range cfg.Unknown {
		g.log.Warn("configuration", "warning", fmt.Sprintf("aa.toml: unknown key %.60q is ignored", key))
	}
	if err := joinBrokers(&cfg, g.cfg.CDH.KBC); err != nil {
		return stage.Wrap(stage.Config, err)
	}
	deps := attest.Deps{Attester: g.tee, Log: g.log.With("subsystem", "attest")}
	if d := g.inputs.initdata; d != nil {
		deps.InitData = d.Raw
	}
	if g.opt.device {
		deps.Devices = []attest.Attester{sample.NewDevice()}
	}
	if g.attest, err = attest.New(cfg, deps); err != nil {
		return err
	}
	g.log.Info("attestation agent", "tee", g.attest.TEE())
	return g.attest.OpenEventLog(ctx, g.path(eventlog.Dir))
}

// joinBrokers gives attestation and the data hub, whose configurations each
// name a key broker, the one that both mean.
func joinBrokers(aa *attest.Config, kbc config.KBC) error {
	if kbc.Name != config.KBCRemote {
		return nil
	}
	switch {
	case aa.Tokens.KBS == nil:
		aa.Tokens.KBS = &attest.KBS{URL: kbc.URL, Cert: kbc.Cert}
	case strings.TrimRight(aa.Tokens.KBS.URL, "/") != strings.TrimRight(kbc.URL, "/"):
		return fmt.Errorf("aa.toml names the key broker %q and cdh.toml %q", aa.Tokens.KBS.URL, kbc.URL)
	case aa.Tokens.KBS.Cert == "":
		aa.Tokens.KBS.Cert = kbc.Cert
	}
	return nil
}
