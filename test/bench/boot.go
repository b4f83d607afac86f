// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"cocoon/agent/agentctl/client"
	"cocoon/mkimage/image"
	"cocoon/mkimage/qemu"
	"cocoon/test/vm"
)

const (
	// guestGateway is this machine for a guest in QEMU's user network.
	guestGateway = "10.0.2.2"
	guestName    = "bench-guest"
	guestPort    = 15150
	bootLimit    = 120 * time.Second
	bootRounds   = 3
)

// booted is what one boot took.
type booted struct {
	console
	ready     time.Duration // until the guest role serves
	container time.Duration // until a container has run to its end
	powerOff  time.Duration // until the machine is off
}

// measureBoot boots the image, runs a container that the guest pulls, and
// powers it off, and reads what the guest says about itself.
func (b *bench) measureBoot(ctx context.Context) error {
	reg, err := b.images(ctx)
	if err != nil {
		return err
	}
	accel := qemu.Accel(ctx, filepath.Join(b.opt.image, image.KernelFile))
	b.report.Machine.Accel = accel
	var boots []booted
	for i := range bootRounds {
		one, err := b.boot(ctx, reg, accel)
		if err != nil {
			return err
		}
		boots = append(boots, one)
		b.say("boot %d of %d by %s: ready %.2f s, container done %.2f s, off %.2f s", i+1, bootRounds, accel,
			one.ready.Seconds(), one.container.Seconds(), one.powerOff.Seconds())
	}
	b.reportBoots(boots)
	return nil
}

func (b *bench) boot(ctx context.Context, reg *imageRegistry, accel string) (one booted, err error) {
	id, err := newIdentity(guestName)
	if err != nil {
		return one, err
	}
	disk, err := writeVolume(ctx, b.dir, id, reg)
	if err != nil {
		return one, err
	}
	start := time.Now()
	g, err := vm.Start(ctx, b.opt.image, vm.Options{Accel: accel, GuestPorts: []int{guestPort}, Disks: []qemu.Disk{{File: disk, ReadOnly: true}}})
	if err != nil {
		return one, err
	}
	defer g.Close()
	if err := g.WaitFor(ctx, readyMarker, bootLimit); err != nil {
		return one, err
	}
	one.ready = time.Since(start)
	if err := runPod(ctx, g.Addr(guestPort), id, reg); err != nil {
		return one, fmt.Errorf("%w\n%s", err, g.Console())
	}
	one.container = time.Since(start)
	if err := g.Wait(ctx, bootLimit); err != nil {
		return one, err
	}
	one.powerOff = time.Since(start)
	if one.console, err = readConsole(g.Console()); err != nil {
		return one, fmt.Errorf("read the guest's console: %w\n%s", err, g.Console())
	}
	return one, nil
}

// runPod runs a container in a sandbox and destroys the sandbox, which ends
// the guest.
func runPod(ctx context.Context, addr string, id identity, reg *imageRegistry) error {
	pair, err := id.pair()
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(id.cert)
	a, err := client.ParseAddress("tcp://" + addr)
	if err != nil {
		return err
	}
	c, err := client.Dial(ctx, a, &tls.Config{RootCAs: roots, ServerName: guestName, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(reg.Host)
	if err != nil {
		return errors.Join(err, c.Close())
	}
	image := net.JoinHostPort(guestGateway, port) + "/" + repoSmall + ":latest"
	err = c.CreateSandbox(ctx, "bench")
	if err == nil {
		var code int
		code, err = c.Run(ctx, client.Container{ID: "bench", Image: image, Args: []string{"/bin/true"}}, client.Streams{})
		if err == nil && code != 0 {
			err = fmt.Errorf("the container ended with status %d", code)
		}
	}
	return errors.Join(err, c.DestroySandbox(ctx), c.Close())
}

// reportBoots makes rows of the medians.
func (b *bench) reportBoots(boots []booted) {
	mid := func(of func(booted) float64) float64 {
		values := make([]float64, len(boots))
		for i, one := range boots {
			values[i] = of(one)
		}
		return median(values, func(v float64) float64 { return v })
	}
	g := "boot"
	b.add(row{Group: g, Name: "kernel, until PID 1 runs", Unit: "ms", Ours: mid(func(o booted) float64 { return o.kernelMillis })})
	for i, s := range boots[0].steps {
		b.add(row{Group: g, Name: "init: " + s.name, Unit: "ms", Ours: mid(func(o booted) float64 { return o.steps[i].millis })})
	}
	b.add(row{Group: g, Name: "init: steps before the console speaks", Unit: "ms", Ours: mid(func(o booted) float64 { return o.silentMillis() })})
	b.add(row{Group: g, Name: "init, all steps", Unit: "ms", Ours: mid(func(o booted) float64 { return o.initMillis })})
	b.add(row{Group: g, Name: "from power-on until the guest serves", Unit: "s", Ours: mid(func(o booted) float64 { return o.ready.Seconds() })})
	b.add(row{Group: g, Name: "pod with a pulled image, in the guest", Unit: "s", Ours: mid(func(o booted) float64 { return (o.container - o.ready).Seconds() })})
	b.add(row{Group: g, Name: "boot, container, power-off", Unit: "s", Ours: mid(func(o booted) float64 { return o.powerOff.Seconds() })}.atMost(10))
	m := "idle memory"
	for _, r := range []struct {
		name string
		of   func(console) int
	}{
		{"guest role, resident", func(c console) int { return c.memory.GuestRSS }}, {"guest role, anonymous", func(c console) int { return c.memory.GuestAnon }},
		{"init, resident", func(c console) int { return c.memory.InitRSS }}, {"init, anonymous", func(c console) int { return c.memory.InitAnon }},
	} {
		b.add(row{Group: m, Name: r.name, Unit: "MiB", Ours: mid(func(o booted) float64 { return float64(r.of(o.console)) / 1024 })})
	}
	b.add(row{Group: m, Name: "both roles, resident", Unit: "MiB", Ours: mid(func(o booted) float64 { return float64(o.memory.GuestRSS+o.memory.InitRSS) / 1024 })}.atMost(48))
	b.add(row{Group: m, Name: "both roles, anonymous", Unit: "MiB", Ours: mid(func(o booted) float64 { return float64(o.memory.GuestAnon+o.memory.InitAnon) / 1024 })}.atMost(16))
}
