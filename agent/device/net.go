// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"fmt"
	"path/filepath"
)

// WaitInterface waits for the network interface of the device at a PCI path or
// with a CCW bus id and returns its name. Errors wrap ErrInvalid or
// ErrNotFound, or are the kernel's.
func (f *Finder) WaitInterface(ctx context.Context, address string) (string, error) {
	a, err := ParseAddress(address)
	if err != nil {
		return "", err
	}
	return f.wait(ctx, fmt.Sprintf("network device %q", address), func() (string, error) { return findInterface(f.cfg.Sys, a) })
}

// findInterface returns the network interface of a device, or "" if there is
// none yet.
func findInterface(root string, a Address) (string, error) {
	dirs, err := a.find(root)
	if err != nil {
		return "", err
	}
	for _, dir := range dirs {
		functions, err := entries(dir, "virtio")
		if err != nil {
			return "", err
		}
		for _, f := range append([]string{"."}, functions...) {
			names, err := entries(filepath.Join(dir, f, "net"), "")
			if err != nil {
				return "", err
			}
			if len(names) > 0 {
				return names[0], nil
			}
		}
	}
	return "", nil
}
