// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package safepath walks paths below a directory that somebody hostile may
// have filled: a container's root, an image layer, a folder shared with the
// host.
//
// Names come from the host, from image layers and from running workloads, who
// may also rename and replace files while a walk is under way. Every walk is
// done by descriptor, with the kernel's "in root" meaning: an absolute
// symbolic link and ".." lead to the root directory at most, as they would
// after chroot(2), and the links of procfs are never followed. No function
// here returns a descriptor that was found outside the root.
//
// The kernel must have openat2(2) (Linux 5.6); there is no fallback.
package safepath

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// ErrBadName is returned for a name that cannot stand for a file below
	// the root: an empty one, one that holds a NUL byte, or one whose last
	// component is "." or ".." where a directory entry is needed.
	ErrBadName = errors.New("name does not stand for a directory entry")

	// ErrBusy is returned when somebody kept renaming directories on the way
	// for so long that the kernel could not prove that the walk stayed
	// inside.
	ErrBusy = errors.New("path kept changing while it was walked")
)

const (
	// resolveInRoot is how every walk by the kernel is confined.
	resolveInRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

	// maxRetries bounds how often a walk that raced with a rename starts
	// again. A single rename needs one retry; a sender who renames without
	// end must not hold the caller for ever.
	maxRetries = 128

	// maxLinks is the kernel's own limit of symbolic links in one walk
	// (MAXSYMLINKS).
	maxLinks = 40

	// maxDepth bounds the descriptors that one walk or one removal holds.
	maxDepth = 512
)

// Root is an open directory below which names are resolved. It is safe for
// concurrent use until Close.
type Root struct {
	dir *os.File
}

// OpenRoot opens dir as a root. The path dir itself is trusted and resolved
// the ordinary way.
func OpenRoot(dir string) (*Root, error) {
	fd, err := retry(func() (int, error) {
		return unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, fmt.Errorf("open root directory %q: %w", dir, err)
	}
	return &Root{dir: os.NewFile(uintptr(fd), dir)}, nil
}

// Close releases the root's descriptor. Files opened through it stay open.
func (r *Root) Close() error { return r.dir.Close() }

// Fd returns the root's descriptor, opened with O_PATH, for use with the *at
// system calls. It is valid until Close.
func (r *Root) Fd() int { return int(r.dir.Fd()) }

// Open opens name inside the root with the flags of open(2); O_CLOEXEC is
// added. mode counts only when flags create a file, and the umask applies. A
// symbolic link in the last component is followed inside the root unless
// flags hold O_NOFOLLOW. A named pipe blocks the caller unless flags hold
// O_NONBLOCK or O_PATH.
//
// The error wraps the kernel's errno, ErrBadName or ErrBusy.
func (r *Root) Open(name string, flags int, mode uint32) (*os.File, error) {
	fd, err := r.openat2(name, flags, mode)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// OpenParent opens, with O_PATH, the directory that holds name and returns it
// with name's last component, which is never "", "." or "..". Slashes at the
// end of name are ignored. Symbolic links are followed in all components but
// the last, whose kind and existence are not looked at. The caller then acts
// on (dir, base) with an *at call that does not follow links.
func (r *Root) OpenParent(name string) (*os.File, string, error) {
	trimmed := strings.TrimRight(name, "/")
	parent, base := path.Split(trimmed)
	if base == "" || base == "." || base == ".." {
		return nil, "", fmt.Errorf("open parent of %q: %w", name, ErrBadName)
	}
	if strings.IndexByte(base, 0) >= 0 {
		return nil, "", fmt.Errorf("open parent of %q: %w", name, ErrBadName)
	}
	if parent == "" {
		parent = "."
	}
	fd, err := r.openat2(parent, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, "", fmt.Errorf("open parent of %q: %w", name, err)
	}
	return os.NewFile(uintptr(fd), parent), base, nil
}

// openat2 opens name inside the root.
func (r *Root) openat2(name string, flags int, mode uint32) (int, error) {
	if name == "" || strings.IndexByte(name, 0) >= 0 {
		return -1, ErrBadName
	}
	how := unix.OpenHow{
		Flags:   uint64(uint32(flags)) | unix.O_CLOEXEC,
		Resolve: resolveInRoot,
	}
	// The kernel refuses a mode without a flag that uses it.
	if flags&unix.O_CREAT != 0 || flags&unix.O_TMPFILE == unix.O_TMPFILE {
		how.Mode = uint64(mode & 0o7777)
	}
	fd, err := retry(func() (int, error) { return unix.Openat2(r.Fd(), name, &how) })
	if errors.Is(err, unix.EAGAIN) && flags&unix.O_NONBLOCK == 0 {
		return -1, fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return fd, err
}

// retry calls open again while it is interrupted or loses a race, up to
// maxRetries times.
func retry(open func() (int, error)) (fd int, err error) {
	for range maxRetries {
		fd, err = open()
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
	return -1, err
}
