// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// scratchSize bounds the tmpfs, in which at most one peer's copy of the image
// lies at a time.
const scratchSize = "size=4g"

// skopeoState is where skopeo remembers blobs from run to run. It is hidden
// by a tmpfs, so that no run profits from an earlier one.
const skopeoState = "/var/lib/containers"

// inNamespaces runs this program once more with mount and network namespaces
// of its own: nothing that is measured can leave a mount behind or reach
// another machine, and no port is taken.
func inNamespaces(ctx context.Context, args []string) error {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append([]string{roleInside, dir}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM,
	}
	// It cleans up, and this waits.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	return errors.Join(cmd.Run(), os.Remove(dir))
}

// enterScratch makes dir a tmpfs that only this program and its children see,
// points TMPDIR to it and brings the loopback device up.
func enterScratch(dir string) error {
	if err := os.MkdirAll(skopeoState, 0o755); err != nil {
		return err
	}
	for target, opts := range map[string]string{dir: scratchSize, skopeoState: "size=16m"} {
		if err := unix.Mount("tmpfs", target, "tmpfs", 0, opts); err != nil {
			return fmt.Errorf("mount a tmpfs on %q: %w", target, err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback device: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring the loopback device up: %w", err)
	}
	tmp := filepath.Join(dir, "tmp")
	return errors.Join(os.Mkdir(tmp, 0o755), os.Setenv("TMPDIR", tmp))
}

// leaveScratch unmounts the tmpfs with all that is in it.
func leaveScratch(dir string) error {
	return errors.Join(unmount(dir), unmount(skopeoState), removeCgroups())
}

func unmount(dir string) error {
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %q: %w", dir, err)
	}
	return nil
}

// benchCgroup is the parent of all containers' cgroups. Cgroup v1 leaves it
// behind in each hierarchy.
const benchCgroup = "cocoon-bench"

func removeCgroups() error {
	v1, err := filepath.Glob("/sys/fs/cgroup/*/" + benchCgroup)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range append(v1, "/sys/fs/cgroup/"+benchCgroup) {
		if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove cgroup %q: %w", d, err))
		}
	}
	return errors.Join(errs...)
}

// signals returns a context that ends with the run.
func signals() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}
