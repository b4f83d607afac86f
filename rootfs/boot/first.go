// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"fmt"
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
		{Name: "first modules", Run: loadModules},
		{Name: "verity root", Run: openRoot},
		{Name: "switch root", Run: leaveInitramfs},
	}
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
