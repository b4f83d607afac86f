// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// FirstMain is Main for the program of an initramfs that only leads to a root
// on a disk, see FirstSteps. It returns only when that fails.
func FirstMain(ctx context.Context) int {
	if err := run(Host(), func(s *State) error { return runSteps(ctx, s, FirstSteps()) }); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
	}
	return 1
}

// FirstSteps is the boot of such an initramfs. The last of them does not
// return: PID 1 is the root's /init then, which goes through Steps.
func FirstSteps() []Step {
	return []Step{
		{Name: "first mounts", Run: mountFirst},
		{Name: "command line", Run: readCmdline},
		{Name: "command line of the image", Run: checkCmdline},
		{Name: "first modules", Run: loadModules},
		{Name: "verity root", Run: openRoot},
		{Name: "switch root", Run: leaveInitramfs},
	}
}

// CmdlinePath holds the command line of an image that boots itself.
const CmdlinePath = "/etc/cocoon/cmdline"

// ErrCmdline is returned if the kernel was started with another command line
// than that of the image.
var ErrCmdline = errors.New("the command line is not that of the image")

// checkCmdline compares the command line with the image's, if that has one. The
// stub of a unified kernel image takes another one from a host unless Secure Boot
// is on. That shows in a register of its own, which not every verifier compares.
func checkCmdline(_ context.Context, s *State) error {
	want, err := s.Deps.FS.ReadFile(CmdlinePath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // A shim composes it, and it is measured with kernel and initramfs.
	}
	if err != nil {
		return fmt.Errorf("read the command line of the image: %w", err)
	}
	got, err := s.Deps.FS.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("read the command line: %w", err)
	}
	if !bytes.Equal(bytes.TrimRight(got, "\n"), want) {
		return fmt.Errorf("%w: it is %.4096q, want %q", ErrCmdline, got, want)
	}
	return nil
}

// firstMounts are what it takes to find a disk.
func firstMounts() []mount {
	return []mount{
		{"proc", "/proc", "proc", nsdx, "", false},
		{"sysfs", "/sys", "sysfs", nsdx, "", false},
		{"dev", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755", false},
	}
}

func mountFirst(_ context.Context, s *State) error {
	for _, m := range firstMounts() {
		if err := mountOne(s.Deps.FS, m); err != nil {
			return err
		}
	}
	return nil
}
