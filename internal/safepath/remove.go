// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package safepath

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// removeDepth is how many directories deep RemoveAll descends before it moves
// what is deeper up. It bounds open descriptors and stack whatever the tree.
const removeDepth = 64

// RemoveAll removes the entry base of the open directory dir with all that is
// below it. Symbolic links are removed, never followed. Trees of any depth
// can be removed. An entry that does not exist is no error.
func RemoveAll(dir *os.File, base string) error {
	if base == "" || base == "." || base == ".." {
		return fmt.Errorf("remove %q: %w", base, ErrBadName)
	}
	r := removal{top: int(dir.Fd()), prefix: base}
	if err := r.remove(r.top, base, 0); err != nil {
		return fmt.Errorf("remove %q: %w", base, err)
	}
	for n := 0; n < r.moved; n++ {
		if err := r.remove(r.top, r.name(n), 0); err != nil {
			return fmt.Errorf("remove %q: %w", base, err)
		}
	}
	return nil
}

// removal is one RemoveAll under way. Directories that lie too deep are moved
// beside the entry under names made from prefix.
type removal struct {
	top    int
	prefix string
	moved  int
}

func (r *removal) name(n int) string { return r.prefix + ".rm" + strconv.Itoa(n) }

func (r *removal) remove(dir int, base string, depth int) error {
	err := unix.Unlinkat(dir, base, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	err = unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	if depth > removeDepth {
		return r.hoist(dir, base)
	}
	if err := r.empty(dir, base, depth); err != nil {
		return err
	}
	return unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
}

// hoist moves a deep directory beside the entry that is being removed.
func (r *removal) hoist(dir int, base string) error {
	for {
		err := unix.Renameat2(dir, base, r.top, r.name(r.moved), unix.RENAME_NOREPLACE)
		r.moved++
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
}

// empty removes everything in the directory base.
func (r *removal) empty(dir int, base string, depth int) (err error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer func() { err = errors.Join(err, f.Close()) }()
	for {
		names, err := f.Readdirnames(256)
		for _, name := range names {
			if err := r.remove(fd, name, depth+1); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		// Entries vanished under the cursor; a fresh pass sees what is left.
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
}
