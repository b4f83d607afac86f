// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// local makes a directory on the guest's own file system, for a volume that
// the containers of one pod share. It stays until the sandbox ends: another
// container may still come and use it.
func (m *Manager) local(_ context.Context, r request) (_ releaseFunc, err error) {
	opts, err := ParseOptions(r.GetOptions())
	if err != nil {
		return nil, err
	}
	mode, err := opts.takeMode(0o777)
	if err != nil {
		return nil, err
	}
	gid, err := opts.takeGID()
	if err != nil {
		return nil, err
	}
	at, err := m.makeDir(r.GetMountPoint())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, at.close()) }()
	fd := int(at.f.Fd())
	if err := unix.Fchmod(fd, mode); err != nil {
		return nil, fmt.Errorf("set mode %#o of %q: %w", mode, r.GetMountPoint(), err)
	}
	if err := errors.Join(groupDir(fd, gid), applyFSGroup(fd, r.Storage)); err != nil {
		return nil, err
	}
	return func(context.Context) error { return nil }, nil
}
