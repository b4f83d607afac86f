// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cpio writes a root as an initramfs whose bytes depend on nothing but
// the root: entries are sorted by the bytes of their names, inode numbers count
// from one, and owner and time are zero.
package cpio

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"

	ucpio "github.com/u-root/u-root/pkg/cpio"

	"cocoon/rootfs/recipe"
)

// ErrEntry is wrapped by errors about entries that make no file system: the
// kernel would drop such a file without a word.
var ErrEntry = errors.New("entry does not fit the root")

// blockSize is what the archive is padded to, so that a further segment that is
// appended starts aligned.
const blockSize = 512

// Write writes entries to w in the newc format. Directories that no entry
// names are made with mode 0755. Entries may come in any order.
func Write(w io.Writer, entries []recipe.Entry) error {
	sorted, err := complete(entries)
	if err != nil {
		return err
	}
	count := &counter{w: w}
	rec := ucpio.Newc.Writer(count)
	for i, e := range sorted {
		if err := rec.WriteRecord(record(uint64(i+1), e)); err != nil {
			return fmt.Errorf("write %q: %w", e.Path, err)
		}
	}
	if err := ucpio.WriteTrailer(rec); err != nil {
		return fmt.Errorf("write the trailer: %w", err)
	}
	if rest := count.n % blockSize; rest != 0 {
		if _, err := w.Write(make([]byte, blockSize-rest)); err != nil {
			return fmt.Errorf("pad the archive: %w", err)
		}
	}
	return nil
}

func record(ino uint64, e recipe.Entry) ucpio.Record {
	info := ucpio.Info{
		Ino: ino, Mode: uint64(e.Mode), NLink: 1, Name: e.Path, FileSize: uint64(len(e.Data)),
		Rmajor: uint64(e.Major), Rminor: uint64(e.Minor),
	}
	return ucpio.Record{ReaderAt: bytes.NewReader(e.Data), Info: info}
}

// complete returns entries sorted, with all parent directories, after checking
// that they make one tree.
func complete(entries []recipe.Entry) ([]recipe.Entry, error) {
	byPath := map[string]recipe.Entry{}
	for _, e := range entries {
		if err := check(e); err != nil {
			return nil, err
		}
		if _, ok := byPath[e.Path]; ok {
			return nil, fmt.Errorf("%q is there twice: %w", e.Path, ErrEntry)
		}
		byPath[e.Path] = e
	}
	all := slices.Clone(entries)
	for _, e := range entries {
		for dir := path.Dir(e.Path); dir != "."; dir = path.Dir(dir) {
			parent, ok := byPath[dir]
			if ok && parent.Type() != recipe.TypeDir {
				return nil, fmt.Errorf("%q lies below %q, which is no directory: %w", e.Path, dir, ErrEntry)
			}
			if !ok {
				byPath[dir] = recipe.Entry{Path: dir, Mode: recipe.TypeDir | 0o755}
				all = append(all, byPath[dir])
			}
		}
	}
	slices.SortFunc(all, func(a, b recipe.Entry) int { return cmp.Compare(a.Path, b.Path) })
	return all, nil
}

func check(e recipe.Entry) error {
	if !fs.ValidPath(e.Path) || e.Path == "." || e.Path == ucpio.Trailer || bytes.ContainsRune([]byte(e.Path), 0) {
		return fmt.Errorf("path %q: %w", e.Path, ErrEntry)
	}
	switch e.Type() {
	case recipe.TypeFile:
	case recipe.TypeSymlink:
		if len(e.Data) == 0 {
			return fmt.Errorf("link %q leads nowhere: %w", e.Path, ErrEntry)
		}
	case recipe.TypeDir, recipe.TypeChar:
		if len(e.Data) != 0 {
			return fmt.Errorf("%q has content: %w", e.Path, ErrEntry)
		}
	default:
		return fmt.Errorf("%q has mode %o: %w", e.Path, e.Mode, ErrEntry)
	}
	return nil
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// Read returns the entries of an archive that Write or another program made.
func Read(r io.ReaderAt) ([]recipe.Entry, error) {
	var entries []recipe.Entry
	err := ucpio.ForEachRecord(ucpio.Newc.Reader(r), func(rec ucpio.Record) error {
		data := make([]byte, rec.FileSize)
		if _, err := io.ReadFull(io.NewSectionReader(rec, 0, int64(rec.FileSize)), data); err != nil {
			return fmt.Errorf("read %q: %w", rec.Name, err)
		}
		entries = append(entries, recipe.Entry{
			Path: rec.Name, Mode: uint32(rec.Mode), Data: data, Major: uint32(rec.Rmajor), Minor: uint32(rec.Rminor),
		})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the archive: %w", err)
	}
	return entries, nil
}
