// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// unmountBelow unmounts all that a peer has left mounted below dir.
func unmountBelow(dir string) error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("read the mount table: %w", err)
	}
	var errs []error
	for _, m := range mountsBelow(string(table), dir) {
		errs = append(errs, unmount(m))
	}
	return errors.Join(errs...)
}

// mountsBelow finds the mount points below dir, the last mounted first.
func mountsBelow(mountinfo, dir string) []string {
	var found []string
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			found = append([]string{f[4]}, found...)
		}
	}
	return found
}
