// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containerd/ttrpc"

	"cocoon/internal/bounded"
	"cocoon/internal/config"
	"cocoon/internal/initdata"
	"cocoon/internal/stage"
	"cocoon/internal/wire/agentpb"
)

// defaultPolicyPath is the policy of the image, measured with it.
const defaultPolicyPath = "/etc/kata-opa/default-policy.rego"

// initdataDir is where upstream's guest keeps the files of initdata from a disk.
const initdataDir = "/run/confidential-containers/initdata"

// maxInput bounds each configuration file.
const maxInput = 16 << 20

// inputs is what the guest is configured with, from wherever its profile takes
// it.
type inputs struct {
	aa, cdh, policy *config.File
	registryAuth    string // URI
	initdata        *initdata.Document
	rewrite         []ttrpc.UnaryServerInterceptor
	prepare         func(*agentpb.CreateContainerRequest) error
	pod             *pod // nil unless this is a pod VM
}

// readInputs collects the configuration: from user-data in a pod VM, from the
// shim's disk with initdata where there is one, from flags on a development
// machine.
func (g *guest) readInputs(ctx context.Context) error {
	if g.profile.podVM {
		if err := g.provision(ctx); err != nil {
			return err
		}
	}
	if g.profile.initdataDisk {
		if err := g.readDisk(initdata.Disks{}); err != nil {
			return stage.Wrap(stage.Initdata, err)
		}
	}
	if err := g.readFlags(); err != nil {
		return err
	}
	if g.inputs.policy != nil || g.profile.name == hostProfile {
		return nil
	}
	file, err := readInput(defaultPolicyPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	g.inputs.policy = file
	return err
}

// readDisk takes the owner's document from a disk. That there is none is no
// error here: bindInitdata asks the TEE whether there should be.
func (g *guest) readDisk(disks initdata.Disks) error {
	doc, disk, err := disks.Find(initdata.Options{})
	if errors.Is(err, initdata.ErrNone) {
		g.log.Info("no initdata", "subsystem", "initdata")
		return nil
	}
	if err != nil {
		return err
	}
	g.log.Info("initdata", "subsystem", "initdata", "disk", disk, "algorithm", doc.Algorithm)
	g.inputs.initdata = doc
	for key, into := range map[string]**config.File{
		initdata.KeyAA: &g.inputs.aa, initdata.KeyCDH: &g.inputs.cdh, initdata.KeyPolicy: &g.inputs.policy,
	} {
		if text, there := doc.Data[key]; there {
			*into = &config.File{Data: []byte(text), From: "initdata"}
		}
	}
	return nil
}

// readFlags reads the files that flags name.
func (g *guest) readFlags() error {
	for _, f := range []struct {
		path string
		into **config.File
	}{{g.opt.aa, &g.inputs.aa}, {g.opt.cdh, &g.inputs.cdh}, {g.opt.policy, &g.inputs.policy}} {
		if f.path == "" {
			continue
		}
		file, err := readInput(f.path)
		if err != nil {
			return err
		}
		*f.into = file
	}
	return nil
}

func readInput(path string) (*config.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	b, err := bounded.ReadAll(f, maxInput)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read configuration %q: %w", path, err)
	}
	return &config.File{Data: b, From: config.Source(path)}, nil
}
