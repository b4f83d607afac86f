// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package recipe

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
)

// ErrEntry is wrapped by errors about entries that make no file system: the
// kernel would drop such a file without a word.
var ErrEntry = errors.New("entry does not fit the root")

// trailer ends a cpio archive, so that no file can have the name.
const trailer = "TRAILER!!!"

// Complete returns entries sorted by the bytes of their paths, with all parent
// directories, after checking that they make one tree. Directories that no
// entry names get mode 0755. The error wraps ErrEntry.
func Complete(entries []Entry) ([]Entry, error) {
	byPath := map[string]Entry{}
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
			if ok && parent.Type() != TypeDir {
				return nil, fmt.Errorf("%q lies below %q, which is no directory: %w", e.Path, dir, ErrEntry)
			}
			if !ok {
				byPath[dir] = Entry{Path: dir, Mode: TypeDir | 0o755}
				all = append(all, byPath[dir])
			}
		}
	}
	slices.SortFunc(all, func(a, b Entry) int { return cmp.Compare(a.Path, b.Path) })
	return all, nil
}

func check(e Entry) error {
	if !fs.ValidPath(e.Path) || e.Path == "." || e.Path == trailer || bytes.ContainsRune([]byte(e.Path), 0) {
		return fmt.Errorf("path %q: %w", e.Path, ErrEntry)
	}
	switch e.Type() {
	case TypeFile:
	case TypeSymlink:
		if len(e.Data) == 0 {
			return fmt.Errorf("link %q leads nowhere: %w", e.Path, ErrEntry)
		}
	case TypeDir, TypeChar:
		if len(e.Data) != 0 {
			return fmt.Errorf("%q has content: %w", e.Path, ErrEntry)
		}
	default:
		return fmt.Errorf("%q has mode %o: %w", e.Path, e.Mode, ErrEntry)
	}
	return nil
}
