// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"cocoon/internal/wire/agentpb"
	"cocoon/internal/wire/typespb"
)

const (
	modeRW  = 0o660 // what the group may do in a writable volume
	modeRO  = 0o440 // and in one that is mounted read-only
	modeDir = 0o110 // and what directories need on top

	// maxDepth bounds how deep a volume's tree may be; the path limit of the
	// kernel allows no deeper one to be made by name.
	maxDepth = 2048
)

// applyFSGroup gives the volume whose root is open as fd to the group that the
// storage names: group ownership, permission bits, and setgid on directories.
// Symbolic links are neither changed nor followed. With the policy
// OnRootMismatch a volume whose root is right already is left alone.
func applyFSGroup(fd int, s *agentpb.Storage) error {
	g := s.GetFsGroup()
	if g == nil {
		return nil
	}
	w := groupWalk{gid: int(g.GetGroupId()), bits: modeRW}
	if slices.Contains(s.GetOptions(), "ro") {
		w.bits = modeRO
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat volume root: %w", err)
	}
	want := w.bits | modeDir | unix.S_ISGID
	if g.GetGroupChangePolicy() == typespb.FSGroupChangePolicy_OnRootMismatch &&
		int(st.Gid) == w.gid && st.Mode&want == want {
		return nil
	}
	if err := w.dir(fd, st, 0); err != nil {
		return fmt.Errorf("give volume to group %d: %w", w.gid, err)
	}
	return nil
}

type groupWalk struct {
	gid  int
	bits uint32
}

// dir changes what the open directory holds, and then itself.
func (w groupWalk) dir(fd int, st unix.Stat_t, depth int) error {
	if depth > maxDepth {
		return unix.ELOOP
	}
	if err := w.entries(fd, depth); err != nil {
		return err
	}
	return w.set(fd, st, w.bits|modeDir|unix.S_ISGID)
}

func (w groupWalk) entries(fd, depth int) (err error) {
	again, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(again), "volume")
	defer func() { err = errors.Join(err, d.Close()) }()
	for {
		names, err := d.Readdirnames(256)
		for _, name := range names {
			if err := w.entry(again, name, depth); err != nil {
				return fmt.Errorf("%q: %w", name, err)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (w groupWalk) entry(dir int, name string, depth int) (err error) {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil // gone since the directory was listed
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch {
	case dirMode(st.Mode):
		return w.dir(fd, st, depth+1)
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return nil
	default:
		return w.set(fd, st, w.bits)
	}
}

// set changes one file that is open with O_PATH.
func (w groupWalk) set(fd int, st unix.Stat_t, bits uint32) error {
	if err := unix.Fchownat(fd, "", -1, w.gid, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), st.Mode&0o7777|bits)
}
