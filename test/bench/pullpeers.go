// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// containerdConfig leaves out what a pull does not need: the CRI service
// would look for CNI plugins and listen.
const containerdConfig = `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = %q
[ttrpc]
  address = %q
`

// startLimit bounds the start of a peer's daemon.
const startLimit = 20 * time.Second

// pullContainerd times ctr alone; the daemon is fresh and runs already. The
// peak is that of both together.
func pullContainerd(ctx context.Context, reg *imageRegistry, dir string) (u usage, err error) {
	daemon, socket, err := startContainerd(ctx, dir)
	if err != nil {
		return u, err
	}
	hosts, err := writeHosts(reg, dir)
	if err != nil {
		return u, errors.Join(err, stopChild(daemon))
	}
	defer func() {
		err = errors.Join(err, daemon.Process.Signal(syscall.SIGTERM), ignoreExit(daemon.Wait()), unmountBelow(dir))
	}()
	u, err = measure(ctx, "ctr", "--address", socket, "images", "pull", "--snapshotter", "overlayfs", "--hosts-dir", hosts, reg.ref(repoLarge))
	if err != nil {
		return u, err
	}
	peak, err := memoryOf(daemon.Process.Pid, "VmHWM")
	u.peak += peak
	return u, err
}

// writeHosts tells ctr to use TLS, which it would not on loopback.
func writeHosts(reg *imageRegistry, dir string) (string, error) {
	hosts := filepath.Join(dir, "hosts")
	of := filepath.Join(hosts, reg.Host)
	if err := os.MkdirAll(of, 0o755); err != nil {
		return "", err
	}
	text := fmt.Sprintf("server = %[1]q\n[host.%[1]q]\n  ca = %[2]q\n", "https://"+reg.Host, reg.ca())
	return hosts, os.WriteFile(filepath.Join(of, "hosts.toml"), []byte(text), 0o600)
}

func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

func startContainerd(ctx context.Context, dir string) (*exec.Cmd, string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, "", err
	}
	socket, config := filepath.Join(dir, "c.sock"), filepath.Join(dir, "config.toml")
	text := fmt.Sprintf(containerdConfig, filepath.Join(dir, "root"), filepath.Join(dir, "state"), socket, socket+".ttrpc")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, "", err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, "", err
	}
	cmd := command(ctx, "containerd", "--config", config)
	cmd.Stdout, cmd.Stderr = log, log
	err = cmd.Start()
	if err := errors.Join(err, log.Close()); err != nil {
		return nil, "", fmt.Errorf("start containerd: %w", err)
	}
	ready := func(ctx context.Context) error { return run(ctx, "ctr", "--address", socket, "version") }
	if err := poll(ctx, startLimit, ready); err != nil {
		return nil, "", errors.Join(fmt.Errorf("containerd does not answer: %w", err), stopChild(cmd))
	}
	return cmd, socket, nil
}

// poll repeats try until it succeeds or says that it never will, by errEnded.
func poll(ctx context.Context, limit time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil || errors.Is(err, errEnded) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// pullSkopeo copies the image into an OCI layout and unpacks that.
func pullSkopeo(ctx context.Context, reg *imageRegistry, dir string) (usage, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return usage{}, err
	}
	layout := filepath.Join(dir, "oci") + ":latest"
	copied, err := measure(ctx, "skopeo", "copy", "--insecure-policy", "--quiet", "--src-cert-dir", filepath.Dir(reg.ca()),
		"docker://"+reg.ref(repoLarge), "oci:"+layout)
	if err != nil {
		return usage{}, err
	}
	unpacked, err := measure(ctx, "umoci", "unpack", "--image", layout, filepath.Join(dir, "bundle"))
	return usage{wall: copied.wall + unpacked.wall, peak: max(copied.peak, unpacked.peak)}, err
}
