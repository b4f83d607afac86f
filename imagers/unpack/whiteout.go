// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package unpack

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	whiteoutPrefix = ".wh."
	// auxPrefix starts the names of bookkeeping files of aufs, which are no
	// whiteouts, save for the opaque mark.
	auxPrefix  = ".wh..wh."
	opaqueName = ".wh..wh..opq"
)

// entryKind says what a name means in an OCI layer.
type entryKind int

const (
	ordinary entryKind = iota
	whiteout
	opaqueMark
	auxiliary
)

// classify tells the meaning of the entry base in dir.
func classify(dir, base string) (entryKind, error) {
	if strings.Contains(dir, whiteoutPrefix) {
		for part := range strings.SplitSeq(dir, "/") {
			if strings.HasPrefix(part, auxPrefix) {
				return auxiliary, nil
			}
			if strings.HasPrefix(part, whiteoutPrefix) {
				return ordinary, fmt.Errorf("whiteout used as a directory: %w", ErrRefused)
			}
		}
	}
	switch {
	case base == opaqueName:
		return opaqueMark, nil
	case strings.HasPrefix(base, auxPrefix):
		return auxiliary, nil
	case !strings.HasPrefix(base, whiteoutPrefix):
		return ordinary, nil
	}
	switch strings.TrimPrefix(base, whiteoutPrefix) {
	case "", ".", "..":
		return ordinary, fmt.Errorf("whiteout without a name: %w", ErrRefused)
	}
	return whiteout, nil
}

func (p place) stat() (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(p.dir.fd, p.base, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// whiteout hides a name of the layers below. An entry of the same name in
// this layer wins; if that is a directory it must not show what lies below.
func (a *applier) whiteout(at place) error {
	st, err := at.stat()
	switch {
	case errors.Is(err, unix.ENOENT):
		if err := unix.Mknodat(at.dir.fd, at.base, unix.S_IFCHR, 0); err != nil {
			return fmt.Errorf("make whiteout: %w", err)
		}
		return nil
	case err != nil:
		return fmt.Errorf("look up whiteout: %w", err)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return nil
	}
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(at.dir.fd, at.base, flags, 0)
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	return errors.Join(setOpaque(fd), unix.Close(fd))
}

// markOpaque makes the directory hide its namesakes below.
func (a *applier) markOpaque(dir string, p *parent) error {
	var root, st unix.Stat_t
	if err := errors.Join(unix.Fstat(a.root.Fd(), &root), unix.Fstat(p.fd, &st)); err != nil {
		return fmt.Errorf("look up %s: %w", shorten(dir), err)
	}
	if root.Ino == st.Ino && root.Dev == st.Dev {
		a.opaqueRoot = true
		return nil
	}
	return setOpaque(p.fd)
}

func setOpaque(fd int) error {
	if err := unix.Fsetxattr(fd, "trusted.overlay.opaque", []byte("y"), 0); err != nil {
		return fmt.Errorf("mark directory opaque: %w", err)
	}
	return nil
}

// unhide turns whiteouts of this layer on the way to dir into directories
// that hide what lies below, since an entry below them wins.
func (a *applier) unhide(dir string) error {
	for i := range len(dir) + 1 {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		done, err := a.unhideOne(dir[:i])
		if err != nil {
			return fmt.Errorf("replace whiteout: %w", err)
		}
		if done {
			return nil
		}
	}
	return nil
}

// unhideOne treats one path and reports whether nothing lies beyond it.
func (a *applier) unhideOne(name string) (done bool, err error) {
	f, base, err := a.root.OpenParent(name)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return true, nil
	}
	if err != nil {
		return true, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	at := place{&parent{f, int(f.Fd())}, base}
	st, err := at.stat()
	if errors.Is(err, unix.ENOENT) {
		return true, nil
	}
	if err != nil || !isWhiteout(&st) {
		return false, err
	}
	a.parents.stale = true
	if err := unix.Unlinkat(at.dir.fd, base, 0); err != nil {
		return true, err
	}
	if err := unix.Mkdirat(at.dir.fd, base, 0o755); err != nil {
		return true, err
	}
	return true, a.whiteout(at)
}
