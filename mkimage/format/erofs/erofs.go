// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package erofs writes a root as an erofs file system whose bytes depend on
// nothing but the root, and reads one back.
//
// Files are not compressed: blocks are checked by dm-verity one by one as they
// are read, and a compressed root would have to be decompressed by the kernel
// from content that the host provides. Owner and times are zero; there is no
// UUID, since the root hash names the content.
//
// Trust: what Read is given may be anybody's. It has a bound for everything, and
// takes nothing that Write does not write: what entries cannot show, such as an
// owner, would be in the root unseen.
package erofs

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"

	"cocoon/rootfs/recipe"
)

// Write writes entries, with the directories that recipe.Complete adds, to w,
// which must be empty. Entries may come in any order.
func Write(w io.WriteSeeker, entries []recipe.Entry) error {
	sorted, err := recipe.Complete(entries)
	if err != nil {
		return err
	}
	fs := erofs.Create(w, erofs.WithBuildTime(0, 0))
	for _, e := range append([]recipe.Entry{{Path: ".", Mode: recipe.TypeDir | 0o755}}, sorted...) {
		if err := add(fs, e); err != nil {
			return fmt.Errorf("add %q to the root: %w", e.Path, err)
		}
	}
	if err := fs.Close(); err != nil {
		return fmt.Errorf("write the root: %w", err)
	}
	return nil
}

func add(w *erofs.Writer, e recipe.Entry) error {
	name := "/" + e.Path
	if e.Path == "." {
		name = "/"
	}
	if err := create(w, name, e); err != nil {
		return err
	}
	if err := w.Chown(name, 0, 0); err != nil {
		return err
	}
	return w.Chtimes(name, time.Unix(0, 0), time.Unix(0, 0))
}

func create(w *erofs.Writer, name string, e recipe.Entry) error {
	mode := modeOf(e)
	switch e.Type() {
	case recipe.TypeDir:
		if name != "/" {
			if err := w.Mkdir(name, mode); err != nil {
				return err
			}
		}
		return w.Chmod(name, mode)
	case recipe.TypeSymlink:
		return w.Symlink(string(e.Data), name)
	case recipe.TypeChar:
		return w.Mknod(name, uint16(e.Mode), uint32(unix.Mkdev(e.Major, e.Minor)))
	}
	f, err := w.Create(name)
	if err != nil {
		return err
	}
	if _, err := f.ReadFrom(bytes.NewReader(e.Data)); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	return f.Close()
}

// modeOf returns the permission bits as Go has them.
func modeOf(e recipe.Entry) fs.FileMode {
	m := fs.FileMode(e.Mode & 0o777)
	for bit, flag := range special() {
		if e.Mode&bit != 0 {
			m |= flag
		}
	}
	return m
}

// special are the bits of a mode that Go keeps elsewhere.
func special() map[uint32]fs.FileMode {
	return map[uint32]fs.FileMode{unix.S_ISVTX: fs.ModeSticky, unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid}
}
