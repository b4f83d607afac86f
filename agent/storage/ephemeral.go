// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"cocoon/internal/wire/agentpb"
)

// ephemeral mounts a tmpfs: the pod's /dev/shm and memory-backed volumes.
// Options for size, inodes, mode and owner and all flags are honoured; fsgid
// gives the root directory a group and the setgid bit.
func (m *Manager) ephemeral(ctx context.Context, r request) (_ releaseFunc, err error) {
	if r.GetFstype() == "hugetlbfs" {
		return m.hugePages(ctx, r)
	}
	if r.GetFstype() != "tmpfs" {
		return nil, fmt.Errorf("ephemeral storage of type %q is not supported: %w", r.GetFstype(), ErrInvalid)
	}
	opts, gid, err := tmpfsOptions(r.GetOptions())
	if err != nil {
		return nil, err
	}
	at, err := m.makeDir(r.GetMountPoint())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, at.close()) }()
	real, err := mountAt(mountSpec{source: r.GetSource(), fstype: "tmpfs", at: at, opts: opts})
	if err != nil {
		return nil, err
	}
	release := unmountAndRemove(real)
	if err := ownMount(real, gid, r.Storage); err != nil {
		return nil, errors.Join(err, release(context.Background()))
	}
	return release, nil
}

// tmpfsOptions keeps the options that tmpfs knows and returns the group of
// fsgid, or -1. Any other word is refused, since dropping a limit silently is
// worse than not starting.
func tmpfsOptions(items []string) (Options, int, error) {
	opts, err := ParseOptions(items)
	if err != nil {
		return Options{}, 0, err
	}
	gid, err := opts.takeGID()
	if err != nil {
		return Options{}, 0, err
	}
	for _, word := range opts.Data {
		if !tmpfsWord(word) {
			return Options{}, 0, fmt.Errorf("option %q is not one of tmpfs: %w", word, ErrInvalid)
		}
	}
	if opts.Flags&(unix.MS_BIND|unix.MS_REMOUNT) != 0 {
		return Options{}, 0, fmt.Errorf("bind and remount are not for tmpfs: %w", ErrInvalid)
	}
	return opts, gid, nil
}

func tmpfsWord(word string) bool {
	switch key(word) {
	case "size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "huge", "mpol", "inode32", "inode64", "noswap":
		return true
	}
	return false
}

// ownMount applies fsgid and fs_group to a fresh mount.
func ownMount(real string, gid int, s *agentpb.Storage) error {
	fd, err := unix.Open(real, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open mount %q: %w", real, err)
	}
	err = errors.Join(groupDir(fd, gid), applyFSGroup(fd, s))
	return errors.Join(err, unix.Close(fd))
}

// groupDir gives the directory fd to group gid with the setgid bit, so that
// what is made in it belongs to the group as well. gid -1 does nothing.
func groupDir(fd, gid int) error {
	if gid < 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat volume root: %w", err)
	}
	if err := unix.Fchown(fd, -1, gid); err != nil {
		return fmt.Errorf("give volume root to group %d: %w", gid, err)
	}
	if err := unix.Fchmod(fd, st.Mode&0o7777|unix.S_ISGID); err != nil {
		return fmt.Errorf("set setgid on volume root: %w", err)
	}
	return nil
}

// Remount changes the size and flags of in-memory volumes that are attached.
// Only the ephemeral driver can do so, for mount points that it has attached;
// a storage without options is left alone.
func (m *Manager) Remount(_ context.Context, list []*agentpb.Storage) error {
	if len(list) > maxStorages {
		return fmt.Errorf("remount %d storages: %w", len(list), ErrTooMany)
	}
	for _, s := range list {
		if err := m.remountOne(s); err != nil {
			return fmt.Errorf("remount %q: %w", s.GetMountPoint(), err)
		}
	}
	return nil
}

func (m *Manager) remountOne(s *agentpb.Storage) (err error) {
	if s.GetDriver() != driverEphemeral {
		return fmt.Errorf("driver %q cannot be remounted: %w", s.GetDriver(), ErrInvalid)
	}
	items := make([]string, 0, len(s.GetOptions()))
	for _, o := range s.GetOptions() {
		if o != "remount" {
			items = append(items, o)
		}
	}
	opts, _, err := tmpfsOptions(items)
	if err != nil || (len(opts.Data) == 0 && opts.Flags == 0) {
		return err
	}
	m.mu.Lock()
	e := m.entries[s.GetMountPoint()]
	attached := e != nil && !e.leaving && e.driver == driverEphemeral
	m.mu.Unlock()
	if !attached {
		return fmt.Errorf("nothing is attached there: %w", ErrInvalid)
	}
	at, err := m.open(s.GetMountPoint())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, at.close()) }()
	// A remount takes all flags away that it does not name.
	var st unix.Statfs_t
	if err := unix.Statfs(at.fdPath(), &st); err != nil {
		return fmt.Errorf("look at the mount: %w", err)
	}
	const kept = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC // ST_* have the same values
	flags := opts.Flags | unix.MS_REMOUNT | uintptr(st.Flags)&kept
	return unix.Mount("", at.fdPath(), "tmpfs", flags, joinWords(opts.Data))
}
