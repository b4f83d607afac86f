// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cpio writes a root as an initramfs whose bytes depend on nothing but
// the root: entries are sorted by the bytes of their names, inode numbers count
// from one, and owner and time are zero. It reads such archives back.
//
// Trust: what is written comes from the builder. An archive that is read may be
// anybody's, and every number in it wrong: nothing is kept but parts of it.
package cpio

import (
	"bytes"
	"fmt"
	"io"

	ucpio "github.com/u-root/u-root/pkg/cpio"

	"cocoon/rootfs/recipe"
)

// blockSize is what the archive is padded to, so that a further segment that is
// appended starts aligned.
const blockSize = 512

// Write writes entries to w in the newc format, with the directories that
// recipe.Complete adds. Entries may come in any order.
func Write(w io.Writer, entries []recipe.Entry) error {
	sorted, err := recipe.Complete(entries)
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
	if err := rec.WriteRecord(ucpio.Record{Info: ucpio.Info{Name: trailer, NLink: 1}, ReaderAt: bytes.NewReader(nil)}); err != nil {
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

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
