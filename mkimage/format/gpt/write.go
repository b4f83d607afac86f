// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package gpt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"

	"github.com/google/uuid"
)

// Source is a partition to write. Its Size is that of Content, and its place
// does not matter.
type Source struct {
	Partition
	Content io.Reader
}

// Target is a file.
type Target interface {
	io.WriterAt
	Truncate(size int64) error
}

// Write replaces what is in w by a disk with the given partitions, one behind
// the other, and returns the disk's size in bytes. That is a multiple of unit,
// which is of whole MiB; clouds ask for a MiB or a GiB. Zeros are not written,
// so that the file has holes.
func Write(w Target, disk uuid.UUID, parts []Source, unit int64) (int64, error) {
	t := Table{ID: disk}
	size, err := t.place(parts, unit)
	if err != nil {
		return 0, err
	}
	// Twice, so that what was in the file becomes zeros.
	for _, n := range []int64{0, size} {
		if err := w.Truncate(n); err != nil {
			return 0, fmt.Errorf("make a disk of %d bytes: %w", size, err)
		}
	}
	if err := t.write(w, uint64(size/sector)); err != nil {
		return 0, fmt.Errorf("write the table of partitions: %w", err)
	}
	for i, p := range t.Partitions {
		if err := fill(io.NewOffsetWriter(w, p.Offset), parts[i].Content, parts[i].Size); err != nil {
			return 0, fmt.Errorf("write partition %q: %w", p.Name, err)
		}
	}
	return size, nil
}

// place sets the partitions and returns the size of the disk.
func (t *Table) place(parts []Source, unit int64) (int64, error) {
	if unit <= 0 || unit%MiB != 0 || unit > maxDisk || len(parts) == 0 || len(parts) > maxPartitions || t.ID == uuid.Nil {
		return 0, fmt.Errorf("%d partitions on disk %s, whole %d bytes: %w", len(parts), t.ID, unit, ErrTable)
	}
	at, seen := int64(MiB), map[uuid.UUID]bool{}
	for _, p := range parts {
		bad := p.Size <= 0 || p.Size > maxDisk-at || p.Type == uuid.Nil || p.ID == uuid.Nil || seen[p.ID]
		if bad || len(utf16.Encode([]rune(p.Name))) > len(entry{}.Name) {
			return 0, fmt.Errorf("partition %q, %s, of %d bytes: %w", p.Name, p.ID, p.Size, ErrTable)
		}
		seen[p.ID] = true
		t.Partitions = append(t.Partitions, Partition{Name: p.Name, Type: p.Type, ID: p.ID, Offset: at, Size: up(p.Size, MiB)})
		at += up(p.Size, MiB)
	}
	// A MiB for the second table.
	return up(at+MiB, unit), nil
}

func up(n, to int64) int64 { return (n + to - 1) / to * to }

// write writes the protective MBR and both tables on a disk of so many sectors.
func (t *Table) write(w io.WriterAt, sectors uint64) error {
	entries, err := t.entries()
	if err != nil {
		return err
	}
	const table = tableSize / sector
	h := header{
		Revision: revision, Size: headerSize, This: 1, Other: sectors - 1, First: 2 + table, Last: sectors - table - 2,
		Disk: mixed(t.ID), Entries: 2, Count: maxPartitions, EntrySize: entrySize, Sum: crc32.ChecksumIEEE(entries),
	}
	copy(h.Signature[:], signature)
	first, err := h.encode()
	if err != nil {
		return err
	}
	h.This, h.Other, h.Entries = h.Other, h.This, sectors-1-table
	second, err := h.encode()
	if err != nil {
		return err
	}
	if _, err := w.WriteAt(bytes.Join([][]byte{protective(sectors), first, entries}, nil), 0); err != nil {
		return err
	}
	_, err = w.WriteAt(append(entries, second...), int64(sectors-1-table)*sector)
	return err
}

// protective is an MBR that says: the whole disk is in use.
func protective(sectors uint64) []byte {
	b := make([]byte, sector)
	e := b[446:]
	copy(e, []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(e[8:], 1)
	binary.LittleEndian.PutUint32(e[12:], uint32(min(sectors-1, 1<<32-1)))
	b[510], b[511] = 0x55, 0xaa
	return b
}

// encode returns the sector with the header and its checksum.
func (h header) encode() ([]byte, error) {
	h.CRC = 0
	b, err := binary.Append(nil, binary.LittleEndian, h)
	if err != nil {
		return nil, err
	}
	binary.LittleEndian.PutUint32(b[16:], crc32.ChecksumIEEE(b))
	return append(b, make([]byte, sector-len(b))...), nil
}

func (t *Table) entries() ([]byte, error) {
	var b []byte
	for _, p := range t.Partitions {
		e := entry{Type: mixed(p.Type), ID: mixed(p.ID), First: uint64(p.Offset / sector), Last: uint64((p.Offset+p.Size)/sector - 1)}
		copy(e.Name[:], utf16.Encode([]rune(p.Name)))
		var err error
		if b, err = binary.Append(b, binary.LittleEndian, e); err != nil {
			return nil, err
		}
	}
	return append(b, make([]byte, tableSize-len(b))...), nil
}

// fill copies size bytes, which must be all that r has, except for zeros.
func fill(w io.WriterAt, r io.Reader, size int64) error {
	block, zeros := make([]byte, 1<<16), make([]byte, 1<<16)
	for at := int64(0); at < size; at += int64(len(block)) {
		b := block[:min(int64(len(block)), size-at)]
		if _, err := io.ReadFull(r, b); err != nil {
			return fmt.Errorf("read what is at %d of %d bytes: %w", at, size, err)
		}
		if bytes.Equal(b, zeros[:len(b)]) {
			continue
		}
		if _, err := w.WriteAt(b, at); err != nil {
			return err
		}
	}
	switch _, err := io.ReadFull(r, block[:1]); {
	case err == nil:
		return fmt.Errorf("it has more than %d bytes: %w", size, ErrTable)
	case errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
}
