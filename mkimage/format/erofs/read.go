// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package erofs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"

	"cocoon/internal/bounded"
	"cocoon/rootfs/recipe"
)

const (
	maxEntries = 100_000
	maxContent = 2 << 30
	maxDepth   = 100
	// flatPlain and flatInline say that content lies in one piece, so that a
	// small image cannot claim to hold much.
	flatPlain, flatInline = 0, 2
)

// Read returns the entries of a root, sorted by path.
func Read(r io.ReaderAt) ([]recipe.Entry, error) {
	img, err := erofs.Open(r)
	if err != nil {
		return nil, fmt.Errorf("open the root: %w", err)
	}
	w := &walk{img: img, left: maxContent, seen: map[int64]bool{}}
	info, err := fs.Stat(img, ".")
	if err == nil {
		err = w.root(info)
	}
	if err != nil {
		return nil, fmt.Errorf("read the root: %w", err)
	}
	return recipe.Complete(w.entries)
}

// walk is a walk through a root. Every inode may be met once, which rules out
// directories that contain themselves.
type walk struct {
	img     fs.FS
	entries []recipe.Entry
	left    int64
	seen    map[int64]bool
}

func (w *walk) root(info fs.FileInfo) error {
	s, err := w.stat(info)
	if err != nil {
		return err
	}
	if s.Mode != fs.ModeDir|0o755 {
		return fmt.Errorf("its mode is %s: %w", s.Mode, recipe.ErrEntry)
	}
	return w.dir(".", 1)
}

func (w *walk) dir(name string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%q lies deeper than %d directories: %w", name, maxDepth, bounded.ErrTooLarge)
	}
	list, err := fs.ReadDir(w.img, name)
	if err != nil {
		return err
	}
	for _, d := range list {
		if !fs.ValidPath(d.Name()) || strings.Contains(d.Name(), "/") || d.Name() == "." {
			return fmt.Errorf("name %q in %q: %w", d.Name(), name, recipe.ErrEntry)
		}
		if len(w.entries) == maxEntries {
			return fmt.Errorf("more than %d files: %w", maxEntries, bounded.ErrTooLarge)
		}
		e, err := w.entry(path.Join(name, d.Name()), d)
		if err != nil {
			return fmt.Errorf("%q in %q: %w", d.Name(), name, err)
		}
		w.entries = append(w.entries, e)
		if e.Type() == recipe.TypeDir {
			if err := w.dir(e.Path, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// stat returns the inode, unless it is one that Write does not write.
func (w *walk) stat(info fs.FileInfo) (*erofs.Stat, error) {
	s, ok := info.Sys().(*erofs.Stat)
	switch {
	case !ok:
		return nil, fmt.Errorf("file without an inode: %w", recipe.ErrEntry)
	case w.seen[s.Ino]:
		return nil, fmt.Errorf("inode %d has two names: %w", s.Ino, recipe.ErrEntry)
	case s.UID != 0 || s.GID != 0 || s.Mtime != 0 || s.MtimeNs != 0 || len(s.Xattrs) != 0:
		return nil, fmt.Errorf("owner %d:%d, time %d, %d attributes: %w", s.UID, s.GID, s.Mtime, len(s.Xattrs), recipe.ErrEntry)
	case s.InodeLayout != flatPlain && s.InodeLayout != flatInline:
		return nil, fmt.Errorf("content of layout %d: %w", s.InodeLayout, recipe.ErrEntry)
	}
	w.seen[s.Ino] = true
	return s, nil
}

func (w *walk) entry(name string, d fs.DirEntry) (recipe.Entry, error) {
	info, err := d.Info()
	if err != nil {
		return recipe.Entry{}, err
	}
	stat, err := w.stat(info)
	if err != nil {
		return recipe.Entry{}, err
	}
	// The library goes by what the directory says, the kernel by the inode.
	if stat.Mode.Type() != d.Type() {
		return recipe.Entry{}, fmt.Errorf("its directory says %s, its inode %s: %w", d.Type(), stat.Mode, recipe.ErrEntry)
	}
	e := recipe.Entry{Path: name, Mode: uint32(stat.Mode.Perm())}
	for bit, flag := range special() {
		if stat.Mode&flag != 0 {
			e.Mode |= bit
		}
	}
	switch stat.Mode.Type() {
	case fs.ModeDir:
		e.Mode |= recipe.TypeDir
	case fs.ModeSymlink:
		e.Mode |= recipe.TypeSymlink
		target, err := fs.ReadLink(w.img, name)
		e.Data = []byte(target)
		return e, err
	case fs.ModeDevice | fs.ModeCharDevice:
		e.Mode |= recipe.TypeChar
		e.Major, e.Minor = unix.Major(uint64(stat.Rdev)), unix.Minor(uint64(stat.Rdev))
	case 0:
		e.Mode |= recipe.TypeFile
		e.Data, err = w.content(name, info.Size())
		return e, err
	default:
		return e, fmt.Errorf("mode %s: %w", stat.Mode, recipe.ErrEntry)
	}
	return e, nil
}

// content reads a file.
func (w *walk) content(name string, size int64) ([]byte, error) {
	if size > w.left {
		return nil, fmt.Errorf("%d bytes more than %d: %w", size, w.left, bounded.ErrTooLarge)
	}
	f, err := w.img.Open(name)
	if err != nil {
		return nil, err
	}
	b, err := bounded.ReadAll(f, size)
	if err = errors.Join(err, f.Close()); err == nil && int64(len(b)) != size {
		err = io.ErrUnexpectedEOF
	}
	w.left -= int64(len(b))
	return b, err
}
