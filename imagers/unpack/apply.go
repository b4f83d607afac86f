// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package unpack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"cocoon/internal/safepath"
)

// copyBuffer is the size of one write of file data.
const copyBuffer = 128 << 10

// applier applies tar entries below root, one after the other. The tree is
// private until the layer is published, so that only the layer itself can
// have put links into it.
type applier struct {
	root    *safepath.Root
	lim     *Limits
	in      *counter
	parents parents
	buf     []byte

	entries    int64
	written    int64 // bytes of file content, holes included
	dirBytes   int64
	late       []lateDir
	opaqueRoot bool
}

// lateDir is a directory whose times are set at the end, since every entry
// made in it changes them.
type lateDir struct {
	name  string
	times [2]unix.Timespec
}

// place is where an entry goes: base in the open directory dir.
type place struct {
	dir  *parent
	base string
}

func newApplier(root *safepath.Root, lim *Limits, in *counter) *applier {
	return &applier{root: root, lim: lim, in: in, buf: make([]byte, copyBuffer)}
}

func (a *applier) close() { a.parents.flush() }

// apply writes one entry.
func (a *applier) apply(ctx context.Context, hdr *tar.Header, content io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(hdr.Name, a.lim)
	if err != nil {
		return err
	}
	if err := a.checkHeader(hdr); err != nil {
		return err
	}
	if name == "" {
		return a.applyRoot(hdr)
	}
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	kind, err := classify(dir, base)
	if err != nil || kind == auxiliary {
		return err
	}
	p, err := a.parent(dir)
	if err != nil {
		return err
	}
	at := place{p, base}
	switch kind {
	case opaqueMark:
		return a.markOpaque(dir, p)
	case whiteout:
		at.base = strings.TrimPrefix(base, whiteoutPrefix)
		return a.whiteout(at)
	default:
		return a.make(ctx, at, name, hdr, content)
	}
}

// make writes an ordinary entry.
func (a *applier) make(ctx context.Context, at place, name string, hdr *tar.Header, content io.Reader) error {
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return a.file(ctx, at, hdr, content)
	case tar.TypeDir:
		return a.directory(at, name, hdr)
	case tar.TypeLink:
		return a.hardLink(at, hdr)
	case tar.TypeSymlink:
		if len(hdr.Linkname) > a.lim.PathBytes || hdr.Linkname == "" || strings.IndexByte(hdr.Linkname, 0) >= 0 {
			return fmt.Errorf("symbolic link target of %d bytes: %w", len(hdr.Linkname), ErrRefused)
		}
		return a.node(at, hdr, func() error { return unix.Symlinkat(hdr.Linkname, at.dir.fd, at.base) })
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		mode, dev, err := device(hdr)
		if err != nil {
			return err
		}
		return a.node(at, hdr, func() error { return unix.Mknodat(at.dir.fd, at.base, mode, int(dev)) })
	default:
		return fmt.Errorf("unknown entry type %q: %w", hdr.Typeflag, ErrRefused)
	}
}

// cleanName returns name relative to the layer's root, "" for the root
// itself. ".." is refused wherever it stands.
func cleanName(name string, lim *Limits) (string, error) {
	if len(name) > lim.PathBytes {
		return "", fmt.Errorf("path of %d bytes: %w", len(name), ErrLimit)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("path holds a NUL byte: %w", ErrRefused)
	}
	depth := 0
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("path leads upwards: %w", ErrRefused)
		}
		if depth++; depth > lim.Depth {
			return "", fmt.Errorf("path of more than %d components: %w", lim.Depth, ErrLimit)
		}
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

// parent returns the open directory dir of the layer, and makes it when it is
// missing.
func (a *applier) parent(dir string) (*parent, error) {
	if p := a.parents.get(dir); p != nil {
		return p, nil
	}
	name := "/" + dir
	f, err := a.root.Open(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		if err := a.unhide(dir); err != nil {
			return nil, err
		}
		f, err = a.root.MkdirAll(name, 0o755)
	}
	if err != nil {
		return nil, err
	}
	return a.parents.put(dir, f), nil
}

// replace removes what stands at the place. Descriptors that were cached by
// path may lead elsewhere afterwards, so they are dropped with the next entry.
func (a *applier) replace(at place) error {
	a.parents.stale = true
	return safepath.RemoveAll(at.dir.file, at.base)
}

// create calls makeIt, and once more after removing what stands in its way.
func (a *applier) create(at place, makeIt func() error) error {
	err := makeIt()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := a.replace(at); err != nil {
		return err
	}
	return makeIt()
}

// finish sets the times of directories, the deepest ones last to first.
func (a *applier) finish() error {
	a.parents.flush()
	for i := len(a.late) - 1; i >= 0; i-- {
		d := &a.late[i]
		if err := a.setTimes(d.name, d.times[:]); err != nil {
			return fmt.Errorf("set times of %s: %w", shorten(d.name), err)
		}
	}
	return nil
}

func (a *applier) setTimes(name string, times []unix.Timespec) error {
	if name == "" {
		return unix.UtimesNanoAt(a.root.Fd(), ".", times, unix.AT_SYMLINK_NOFOLLOW)
	}
	dir, base, err := a.root.OpenParent(name)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil // a later entry replaced the directory
	}
	if err != nil {
		return err
	}
	err = unix.UtimesNanoAt(int(dir.Fd()), base, times, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return errors.Join(err, dir.Close())
}
