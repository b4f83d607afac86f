// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is what the numbers depend on.
type machine struct {
	CPUs   int    `json:"cpus"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
	Accel  string `json:"qemu_accelerator,omitempty"`
}

func thisMachine() (machine, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return machine{}, fmt.Errorf("ask for the kernel's release: %w", err)
	}
	return machine{CPUs: runtime.NumCPU(), Kernel: unix.ByteSliceToString(u.Release[:]), Go: runtime.Version()}, nil
}

// tool is a program that a section needs, with the Debian package it is in.
type tool struct{ program, pkg string }

// findTools looks for all programs before anything is measured: a row that is
// silently absent would be worse than no run. It returns the versions of
// their packages.
func findTools(ctx context.Context, tools []tool) (map[string]string, error) {
	versions := map[string]string{}
	var missing []string
	for _, t := range tools {
		if _, err := exec.LookPath(t.program); err != nil {
			missing = append(missing, fmt.Sprintf("%s of package %s", t.program, t.pkg))
			continue
		}
		out, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${Version}", t.pkg).Output()
		if err != nil {
			return nil, fmt.Errorf("ask for the version of package %s: %w", t.pkg, err)
		}
		versions[t.pkg] = string(out)
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("nothing to compare with: install %s", strings.Join(missing, ", "))
	}
	return versions, nil
}
