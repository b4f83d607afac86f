// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// maxTag bounds the name of a shared file system, in bytes; the device has
// room for no more.
const maxTag = 36

// virtioFS mounts a file system that the host shares. The host sees and
// changes every file of it at any time, so it is no place for anything that a
// confidential guest relies on; the policy of such a guest does not allow it.
func (m *Manager) virtioFS(_ context.Context, r request) (_ releaseFunc, err error) {
	if r.GetFstype() != "virtiofs" {
		return nil, fmt.Errorf("shared file system of type %q: %w", r.GetFstype(), ErrInvalid)
	}
	tag := r.GetSource()
	if tag == "" || len(tag) > maxTag || strings.ContainsAny(tag, "/,\x00") {
		return nil, fmt.Errorf("shared file system %q: %w", tag[:min(len(tag), maxTag)], ErrInvalid)
	}
	opts, err := ParseOptions(r.GetOptions())
	if err != nil {
		return nil, err
	}
	for _, word := range opts.Data {
		if name := key(word); name != "dax" {
			return nil, fmt.Errorf("option %q is not one of virtiofs: %w", word, ErrInvalid)
		}
	}
	if opts.Flags&(unix.MS_BIND|unix.MS_REMOUNT) != 0 {
		return nil, fmt.Errorf("bind and remount are not for virtiofs: %w", ErrInvalid)
	}
	at, err := m.makeDir(r.GetMountPoint())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, at.close()) }()
	opts.Flags |= unix.MS_NODEV
	real, err := mountAt(mountSpec{source: tag, fstype: "virtiofs", at: at, opts: opts})
	if err != nil {
		return nil, err
	}
	// What the host shares stays the host's: the directory is not removed.
	return func(context.Context) error { return unmount(real) }, nil
}
