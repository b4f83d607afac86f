// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package gpt

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"unicode/utf16"

	"github.com/google/uuid"
)

// Read returns the table of a disk of size bytes. Its partitions are in the
// order of the table and do not overlap.
func Read(r io.ReaderAt, size int64) (*Table, error) {
	mbr := make([]byte, sector)
	if _, err := r.ReadAt(mbr, 0); err != nil {
		return nil, fmt.Errorf("read the protective MBR: %w", err)
	}
	if mbr[450] != 0xee || mbr[510] != 0x55 || mbr[511] != 0xaa {
		return nil, fmt.Errorf("there is no protective MBR: %w", ErrTable)
	}
	first, entries, err := readTable(r, 1, uint64(size/sector))
	if err != nil {
		return nil, fmt.Errorf("first table: %w", err)
	}
	second, copied, err := readTable(r, first.Other, uint64(size/sector))
	if err != nil {
		return nil, fmt.Errorf("second table: %w", err)
	}
	if table := uint64(tableSize / sector); second.Other != first.This || first.First < first.Entries+table || first.Last >= second.Entries || second.Entries+table > second.This {
		return nil, fmt.Errorf("tables and partitions overlap: %w", ErrTable)
	}
	second.Other, second.This, second.Entries, second.CRC = first.Other, first.This, first.Entries, first.CRC
	if *first != *second || !bytes.Equal(entries, copied) {
		return nil, fmt.Errorf("the two tables differ: %w", ErrTable)
	}
	return first.decode(entries)
}

// readTable reads the header in sector at, and its entries.
func readTable(r io.ReaderAt, at, sectors uint64) (*header, []byte, error) {
	if at == 0 || at >= sectors || sectors > maxDisk/sector {
		return nil, nil, fmt.Errorf("sector %d of %d: %w", at, sectors, ErrTable)
	}
	b := make([]byte, sector)
	if _, err := r.ReadAt(b, int64(at)*sector); err != nil {
		return nil, nil, err
	}
	var h header
	if _, err := binary.Decode(b, binary.LittleEndian, &h); err != nil {
		return nil, nil, err
	}
	if string(h.Signature[:]) != signature || h.Revision != revision || h.Size != headerSize || h.Reserved != 0 || h.This != at || h.Other == at {
		return nil, nil, fmt.Errorf("header with %q, revision %#x, of %d bytes, for sector %d: %w", h.Signature, h.Revision, h.Size, h.This, ErrTable)
	}
	clear(b[16:20])
	if crc32.ChecksumIEEE(b[:headerSize]) != h.CRC {
		return nil, nil, fmt.Errorf("checksum of the header: %w", ErrTable)
	}
	if h.Count != maxPartitions || h.EntrySize != entrySize || h.Entries < 2 || h.Entries > sectors-tableSize/sector || h.First > h.Last || h.Last >= sectors {
		return nil, nil, fmt.Errorf("%d entries of %d bytes at sector %d, partitions in %d to %d of %d: %w", h.Count, h.EntrySize, h.Entries, h.First, h.Last, sectors, ErrTable)
	}
	entries := make([]byte, tableSize)
	if _, err := r.ReadAt(entries, int64(h.Entries)*sector); err != nil {
		return nil, nil, err
	}
	if crc32.ChecksumIEEE(entries) != h.Sum {
		return nil, nil, fmt.Errorf("checksum of the entries: %w", ErrTable)
	}
	return &h, entries, nil
}

// decode returns what the entries of the table say.
func (h *header) decode(entries []byte) (*Table, error) {
	t := &Table{ID: mixed(h.Disk)}
	for ; len(entries) > 0; entries = entries[entrySize:] {
		var e entry
		if _, err := binary.Decode(entries, binary.LittleEndian, &e); err != nil {
			return nil, err
		}
		if e.Type == uuid.Nil {
			continue
		}
		if e.First < h.First || e.Last > h.Last || e.First > e.Last {
			return nil, fmt.Errorf("partition in sectors %d to %d, not in %d to %d: %w", e.First, e.Last, h.First, h.Last, ErrTable)
		}
		name := e.Name[:]
		if end := slices.Index(name, 0); end >= 0 {
			name = name[:end]
		}
		t.Partitions = append(t.Partitions, Partition{
			Name: string(utf16.Decode(name)), Type: mixed(e.Type), ID: mixed(e.ID), Offset: int64(e.First) * sector, Size: int64(e.Last-e.First+1) * sector,
		})
	}
	sorted := slices.SortedFunc(slices.Values(t.Partitions), func(a, b Partition) int { return cmp.Compare(a.Offset, b.Offset) })
	for i := 1; i < len(sorted); i++ {
		if a, b := sorted[i-1], sorted[i]; a.Offset+a.Size > b.Offset {
			return nil, fmt.Errorf("partitions %q and %q overlap: %w", a.Name, b.Name, ErrTable)
		}
	}
	return t, nil
}
