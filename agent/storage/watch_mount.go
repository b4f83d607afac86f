// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Bounds of the memory of a copy: twice what it may hold, since what is new
// comes before what is old goes, and as much for what is being made.
const (
	copyBytes  = "4m"
	copyInodes = "128"
)

// memoryDir makes a file system in memory that is mounted nowhere yet. Its
// mounts are shared, so that what is mounted on it later appears wherever it is
// bound, unless who binds it says otherwise.
func memoryDir() (_ place, err error) {
	fd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return place{}, fmt.Errorf("open a file system in memory: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	for _, o := range [][2]string{{"source", "watchable"}, {"mode", "0755"}, {"size", copyBytes}, {"nr_inodes", copyInodes}} {
		if err := unix.FsconfigSetString(fd, o[0], o[1]); err != nil {
			return place{}, fmt.Errorf("set %s of a file system in memory: %w", o[0], err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return place{}, fmt.Errorf("make a file system in memory: %w", err)
	}
	dir, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return place{}, fmt.Errorf("mount a file system in memory: %w", err)
	}
	p := place{f: os.NewFile(uintptr(dir), "memory")}
	if err := unix.MountSetattr(dir, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Propagation: unix.MS_SHARED}); err != nil {
		return place{}, errors.Join(fmt.Errorf("share a file system in memory: %w", err), p.close())
	}
	return p, nil
}

// attachMount puts a mount that is attached nowhere on an open directory.
func attachMount(mount, at place) error {
	return unix.MoveMount(int(mount.f.Fd()), "", int(at.f.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}
