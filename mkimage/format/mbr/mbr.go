// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package mbr writes and reads disks with a table of DOS partitions, the form
// of the guest extension images of kata: data in the first partition, the tree
// of dm-verity in the second. The disk has no signature: nobody looks for it.
//
// Trust: what Read is given may be anybody's.
package mbr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	sector   = 512
	align    = 1 << 20
	tableAt  = 446
	entry    = 16
	maxParts = 4
	linux    = 0x83
	maxDisk  = 1 << 32 * sector
)

// ErrTable is wrapped by errors about a table that is none, or that would not
// fit.
var ErrTable = errors.New("no table of partitions")

// Part is one partition, in bytes from the start of the disk.
type Part struct{ Offset, Size int64 }

// Content is what a partition holds.
type Content interface {
	io.Reader
	Size() int64
}

// Write writes a disk of up to four partitions to w, each from a whole MiB, and
// fills the last MiB with zeros.
func Write(w io.Writer, parts []Content) error {
	if len(parts) == 0 || len(parts) > maxParts {
		return fmt.Errorf("%d partitions: %w", len(parts), ErrTable)
	}
	head := make([]byte, align)
	at := int64(align)
	for i, p := range parts {
		size := (p.Size() + align - 1) / align * align
		if size == 0 || at+size > maxDisk {
			return fmt.Errorf("partition %d of %d bytes: %w", i+1, p.Size(), ErrTable)
		}
		e := head[tableAt+i*entry:]
		// Addresses by cylinder end at 8 GiB; these say: look at the others.
		copy(e, []byte{0, 0xfe, 0xff, 0xff, linux, 0xfe, 0xff, 0xff})
		binary.LittleEndian.PutUint32(e[8:], uint32(at/sector))
		binary.LittleEndian.PutUint32(e[12:], uint32(size/sector))
		at += size
	}
	head[510], head[511] = 0x55, 0xaa
	if _, err := w.Write(head); err != nil {
		return fmt.Errorf("write the table of partitions: %w", err)
	}
	for i, p := range parts {
		n, err := io.Copy(w, p)
		if err == nil && n != p.Size() {
			err = io.ErrUnexpectedEOF
		}
		if err == nil && n%align != 0 {
			_, err = w.Write(make([]byte, align-n%align))
		}
		if err != nil {
			return fmt.Errorf("write partition %d: %w", i+1, err)
		}
	}
	return nil
}

// Read returns the partitions of a disk of size bytes, at least one, in the
// order of the table.
func Read(r io.ReaderAt, size int64) ([]Part, error) {
	head := make([]byte, sector)
	if _, err := r.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("read the table of partitions: %w", err)
	}
	if head[510] != 0x55 || head[511] != 0xaa {
		return nil, fmt.Errorf("it lacks its mark: %w", ErrTable)
	}
	var parts []Part
	for i := range maxParts {
		e := head[tableAt+i*entry:]
		p := Part{Offset: int64(binary.LittleEndian.Uint32(e[8:])) * sector, Size: int64(binary.LittleEndian.Uint32(e[12:])) * sector}
		if e[4] == 0 {
			continue
		}
		if p.Offset == 0 || p.Size == 0 || p.Offset+p.Size > size {
			return nil, fmt.Errorf("partition %d from %d, of %d bytes, on a disk of %d: %w", i+1, p.Offset, p.Size, size, ErrTable)
		}
		parts = append(parts, p)
	}
	if len(parts) == 0 {
		return nil, fmt.Errorf("it is empty: %w", ErrTable)
	}
	return parts, nil
}
