// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/ttrpc"

	"cocoon/agent/device"
	"cocoon/agent/podvm"
	"cocoon/agent/podvm/metadata"
	"cocoon/internal/config"
	"cocoon/internal/stage"
	"cocoon/internal/wire/agentpb"
)

const (
	// Devices of a virtual machine may appear a moment after their drivers.
	diskWait  = 5 * time.Second
	diskRetry = 50 * time.Millisecond

	// userDataLimit bounds all tries to get user-data from a cloud.
	userDataLimit = 180 * time.Second
)

// pod is what a peer-pod VM has beside the common parts.
type pod struct {
	apf   *podvm.APF
	netNS string // network namespace of all containers
	cloud metadata.Provider
	// scratch puts the image store on the disk's partition for it.
	scratch bool
}

// provision configures a pod VM from its user-data and makes the pod's network
// namespace.
func (g *guest) provision(ctx context.Context) error {
	cloud, err := metadata.Detect("/sys")
	if err != nil {
		return stage.Wrap(stage.UserData, err)
	}
	data, from, err := findUserData(ctx, cloud)
	if err != nil {
		return stage.Wrap(stage.UserData, err)
	}
	p, err := podvm.Parse(data, podvm.Options{Unmeasured: g.profile.unmeasured})
	if err != nil {
		return fmt.Errorf("user-data of %s: %w", from, err)
	}
	for _, name := range p.Skipped {
		g.log.Warn("user-data names a file that it may not write", "path", name)
	}
	if err := p.Write(podvm.Dir); err != nil {
		return stage.Wrap(stage.UserData, err)
	}
	g.takeProvision(p)
	return g.makePod(p, cloud)
}

// findUserData looks at the disks first, as a cloud may attach one, and then
// asks the cloud. Where there is no cloud a disk is waited for. from says where
// the document is from.
func findUserData(ctx context.Context, cloud metadata.Provider) (data []byte, from string, err error) {
	if cloud != metadata.None {
		data, from, err = podvm.Disks{}.UserData()
		if !errors.Is(err, podvm.ErrNoUserData) {
			return data, from, err
		}
		ctx, cancel := context.WithTimeout(ctx, userDataLimit)
		defer cancel()
		data, err = metadata.New(nil).UserData(ctx, cloud)
		return data, string(cloud), err
	}
	return waitForDisk(ctx)
}

func waitForDisk(ctx context.Context) (data []byte, disk string, err error) {
	ctx, cancel := context.WithTimeout(ctx, diskWait)
	defer cancel()
	for {
		data, disk, err = podvm.Disks{}.UserData()
		if !errors.Is(err, podvm.ErrNoUserData) {
			return data, disk, err
		}
		select {
		case <-ctx.Done():
			return nil, "", err
		case <-time.After(diskRetry):
		}
	}
}

// takeProvision notes what the user-data configures.
func (g *guest) takeProvision(p *podvm.Provision) {
	from := config.Source("user-data")
	if p.HasInitdata {
		from = "initdata"
		g.inputs.initdata = p.Initdata
	}
	file := func(b []byte) *config.File {
		if b == nil {
			return nil
		}
		return &config.File{Data: b, From: from}
	}
	g.inputs.aa, g.inputs.cdh, g.inputs.policy = file(p.AA), file(p.CDH), file(p.Policy)
	if p.Auth != nil {
		g.inputs.registryAuth = "file://" + podvm.Dir + "/auth.json"
	}
}

func (g *guest) makePod(p *podvm.Provision, cloud metadata.Provider) error {
	apf, err := podvm.ParseAPF(p.APF)
	if err != nil {
		return stage.Wrap(stage.UserData, err)
	}
	g.inputs.pod = &pod{apf: apf, netNS: podvm.DefaultNetNS, cloud: cloud, scratch: p.Scratch}
	if err := podvm.MakeNetNS(podvm.DefaultNetNS); err != nil {
		return err
	}
	if apf.PodNetwork != nil {
		if err := podvm.ConnectPod(podvm.DefaultNetNS, apf.PodNetwork, g.log); err != nil {
			return err
		}
	} else {
		g.log.Warn("user-data describes no pod network: the pod has loopback only")
	}
	rewriter := podvm.Rewriter{NetNS: podvm.DefaultNetNS, Log: g.log}
	g.inputs.prepare = func(r *agentpb.CreateContainerRequest) error {
		return podvm.MakeBindSources(r, podvm.BindTrees())
	}
	g.inputs.rewrite = []ttrpc.UnaryServerInterceptor{rewriter.Intercept}
	return nil
}

// storePartition is the name of the partition for images.
const storePartition = "trusted_store"

// useScratch puts the image store on the disk, if user-data asks for it. A
// guest without such a partition does not start: its owner counts on more room
// than memory.
func (g *guest) useScratch(ctx context.Context) error {
	if g.inputs.pod == nil || !g.inputs.pod.scratch {
		return nil
	}
	disk, err := device.New(device.Config{Timeout: g.cfg.Agent.HotplugTimeout}).Named(ctx, storePartition)
	if err == nil {
		err = g.trustStore(ctx, disk.Path)
	}
	if err != nil {
		return stage.Wrap(stage.UserData, fmt.Errorf("image store that user-data asks for: %w", err))
	}
	return nil
}

// reportReady tells a cloud that waits for it that the machine is up. The pod
// does not depend on it: what the cloud does without is its own business.
func (g *guest) reportReady(ctx context.Context) {
	if g.inputs.pod == nil || g.inputs.pod.cloud != metadata.Azure {
		return
	}
	if err := metadata.New(nil).ReportReady(ctx); err != nil {
		g.log.Warn("the cloud was not told that the machine is ready", "error", err)
		return
	}
	g.log.Info("the cloud knows that the machine is ready")
}
