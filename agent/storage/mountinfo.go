// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// ErrMounted is returned when a tree should be removed in which something is
// still mounted: removing it would delete what lies on the mount.
var ErrMounted = errors.New("still mounted")

// RefuseMounts returns ErrMounted if dir, an absolute path without symbolic
// links, is a mount point or holds one.
func RefuseMounts(dir string) error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list mounts below %q: %w", dir, err)
	}
	for line := range strings.Lines(string(table)) {
		point := mountPoint(line)
		if point == dir || strings.HasPrefix(point, dir+"/") {
			return fmt.Errorf("remove %q: %q: %w", dir, point, ErrMounted)
		}
	}
	return nil
}

// mountPoint returns the fifth field of a line of proc_pid_mountinfo(5), with
// the characters that the kernel writes as octal put back.
func mountPoint(line string) string {
	fields := strings.Fields(line)
	if len(fields) < 5 {
		return ""
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[4])
}
