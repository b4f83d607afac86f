// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package store keeps the broker's secrets and policies in files.
//
// The files belong to the operator of the broker and are trusted; the names
// under which clients ask for them are not, and are checked before they touch
// the file system. A file is replaced whole: its content goes to a temporary
// file that is flushed and then renamed, so that a crash at any moment leaves
// the old content or the new one. All paths are resolved below an os.Root.
package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"cocoon/internal/bounded"
)

// ErrNotFound is returned when no file has the name that was asked for.
var ErrNotFound = errors.New("not found")

// tempPrefix starts the names of files that are being written. No valid
// resource segment or policy name begins with a dot.
const tempPrefix = ".tmp-"

// Dir is a folder whose files are replaced whole. It is safe for concurrent use.
type Dir struct {
	root *os.Root
}

// OpenDir opens the folder at p, which is created if it is missing, and
// removes the temporary files that an interrupted writer left behind. No other
// process may write to the folder meanwhile; Lock sees to that.
func OpenDir(p string) (*Dir, error) {
	if err := os.MkdirAll(p, 0o700); err != nil {
		return nil, fmt.Errorf("create store: %w", err)
	}
	root, err := os.OpenRoot(p)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	d := &Dir{root: root}
	if err := d.sweep(); err != nil {
		return nil, errors.Join(fmt.Errorf("clean store %q: %w", p, err), root.Close())
	}
	return d, nil
}

// Close releases the folder.
func (d *Dir) Close() error { return d.root.Close() }

// Read returns the content of the regular file name. A file larger than limit
// bytes is an error.
func (d *Dir) Read(name string, limit int64) ([]byte, error) {
	f, err := d.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%q: %w", name, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", name, err)
	}
	defer func() { _ = f.Close() }() // only read from
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is no regular file: %w", name, ErrNotFound)
	}
	b, err := bounded.ReadAll(f, limit)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", name, err)
	}
	return b, nil
}

// Write makes data the content of name. When it returns without an error the
// content survives a crash.
func (d *Dir) Write(name string, data []byte) error {
	parent := path.Dir(name)
	if err := d.root.MkdirAll(parent, 0o700); err != nil {
		return fmt.Errorf("write %q: %w", name, err)
	}
	temp := path.Join(parent, tempPrefix+rand.Text())
	if err := d.writeTemp(temp, data); err != nil {
		return fmt.Errorf("write %q: %w", name, errors.Join(err, d.discard(temp)))
	}
	if err := d.root.Rename(temp, name); err != nil {
		return fmt.Errorf("write %q: %w", name, errors.Join(err, d.discard(temp)))
	}
	if err := d.syncUp(parent); err != nil {
		return fmt.Errorf("write %q: %w", name, err)
	}
	return nil
}

// Remove deletes name.
func (d *Dir) Remove(name string) error {
	err := d.root.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%q: %w", name, ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("remove %q: %w", name, err)
	}
	return d.syncUp(path.Dir(name))
}

// Files lists the regular files below the folder, in lexical order, at most
// limit of them; more is an error.
func (d *Dir) Files(limit int) ([]string, error) {
	var names []string
	err := fs.WalkDir(d.root.FS(), ".", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() || strings.HasPrefix(path.Base(p), tempPrefix) {
			return nil
		}
		if len(names) == limit {
			return fmt.Errorf("more than %d files: %w", limit, bounded.ErrTooLarge)
		}
		names = append(names, p)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list store: %w", err)
	}
	return names, nil
}

func (d *Dir) writeTemp(temp string, data []byte) (err error) {
	f, err := d.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if n, err := f.Write(data); err != nil {
		return err
	} else if n < len(data) {
		return io.ErrShortWrite
	}
	return f.Sync()
}

func (d *Dir) discard(temp string) error {
	if err := d.root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// syncUp flushes dir and its parents up to the root: each may hold an entry
// that was made a moment ago.
func (d *Dir) syncUp(dir string) error {
	for {
		f, err := d.root.Open(dir)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
		if dir == "." {
			return nil
		}
		dir = path.Dir(dir)
	}
}

func (d *Dir) sweep() error {
	return fs.WalkDir(d.root.FS(), ".", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !e.IsDir() && strings.HasPrefix(path.Base(p), tempPrefix) {
			return d.root.Remove(p)
		}
		return nil
	})
}
