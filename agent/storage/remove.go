// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrMounted is returned when something is mounted in a tree that should be
// removed. What lies on the mount was not touched.
var ErrMounted = errors.New("still mounted")

// removeDepth is how many directories are held open one below the other. What
// a workload has nested deeper is moved up first, so that it cannot make a
// tree that the agent has not enough descriptors to remove.
const removeDepth = 128

// RemoveTree removes a file or a directory with all it holds. It crosses no
// mount point, whenever that appeared, and follows no symbolic link in or
// below the last component of p. A mount in the tree stays, with the
// directories above it, and the error is ErrMounted. That p does not exist is
// no error.
func RemoveTree(p string) error {
	parent, err := unix.Open(filepath.Dir(p), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %q: %w", p, err)
	}
	r := removal{top: parent, id: removalID(parent, filepath.Base(p))}
	err = r.entry(parent, filepath.Base(p), 0)
	for err == nil && len(r.moved) > 0 {
		last := len(r.moved) - 1
		name := r.moved[last]
		r.moved = r.moved[:last]
		err = r.entry(parent, name, 0)
	}
	if err := errors.Join(err, unix.Close(parent)); err != nil {
		return fmt.Errorf("remove %q: %w", p, err)
	}
	return nil
}

// removal is one RemoveTree under way.
type removal struct {
	top   int      // the directory that holds the tree
	id    uint64   // tells this removal from others in the same directory
	moved []string // directories that lie there to be removed yet
	count int      // how many were ever moved there
}

// moveUp renames a directory that lies too deep into the top directory. No
// container can have its new name, and no other removal at the same time.
func (r *removal) moveUp(dir int, name string) error {
	r.count++
	to := ".removing-" + strconv.FormatUint(r.id, 10) + "-" + strconv.Itoa(r.count)
	if err := unix.Renameat(dir, name, r.top, to); err != nil {
		return fmt.Errorf("move %q up: %w", name, err)
	}
	r.moved = append(r.moved, to)
	return nil
}

// removalID returns the inode number of what is to be removed, or 0 if there
// is nothing.
func removalID(dir int, name string) uint64 {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0 // the removal itself will say why
	}
	return st.Ino
}

// entry removes one name in an open directory.
func (r *removal) entry(dir int, name string, depth int) error {
	err := unix.Unlinkat(dir, name, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%q: %w", name, ErrMounted)
	case !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM):
		return fmt.Errorf("%q: %w", name, err)
	}
	if depth > removeDepth {
		return r.moveUp(dir, name)
	}
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
	})
	if errors.Is(err, unix.EXDEV) {
		return fmt.Errorf("%q: %w", name, ErrMounted)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	if err := r.content(fd, depth); err != nil {
		return err
	}
	err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%q: %w", name, err)
	}
	return nil
}

// content empties an open directory and closes it. What can be removed is
// removed even if something else cannot.
func (r *removal) content(fd, depth int) (err error) {
	d := os.NewFile(uintptr(fd), "tree")
	defer func() { err = errors.Join(err, d.Close()) }()
	var kept error
	for {
		names, err := d.Readdirnames(512)
		for _, name := range names {
			if err := r.entry(fd, name, depth+1); err != nil {
				kept = err
			}
		}
		if errors.Is(err, io.EOF) {
			return kept
		}
		if err != nil {
			return errors.Join(kept, err)
		}
	}
}
