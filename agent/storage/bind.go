// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// bind makes a file or directory below the run directory visible at another
// place there. Both ends are resolved by descriptor, so a symbolic link that
// the host copied cannot bring in a part of the guest's own root.
func (m *Manager) bind(_ context.Context, r request) (_ releaseFunc, err error) {
	opts, err := ParseOptions(r.GetOptions())
	if err != nil {
		return nil, err
	}
	if len(opts.Data) > 0 {
		return nil, fmt.Errorf("option %q is not one of a bind mount: %w", opts.Data[0], ErrInvalid)
	}
	opts.Flags |= unix.MS_BIND
	from, err := m.open(r.GetSource())
	if err != nil {
		return nil, fmt.Errorf("bind source: %w", err)
	}
	defer func() { err = errors.Join(err, from.close()) }()
	at, isDir, err := m.likeSource(from, r.GetMountPoint())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, at.close()) }()
	real, err := mountAt(mountSpec{source: from.fdPath(), fstype: "bind", at: at, opts: opts})
	if err != nil {
		return nil, err
	}
	release := unmountAndRemove(real)
	if !isDir {
		release = func(context.Context) error { return unmount(real) }
	}
	if isDir {
		err = ownMount(real, -1, r.Storage)
	}
	if err != nil {
		return nil, errors.Join(err, release(context.Background()))
	}
	return release, nil
}

// likeSource makes the mount point: a directory for a directory, an empty file
// for anything else.
func (m *Manager) likeSource(from place, point string) (place, bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(from.f.Fd()), &st); err != nil {
		return place{}, false, fmt.Errorf("stat %q: %w", from.f.Name(), err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		at, err := m.makeDir(point)
		return at, true, err
	}
	at, err := m.makeFile(point)
	return at, false, err
}
