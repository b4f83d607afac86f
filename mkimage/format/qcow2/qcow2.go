// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package qcow2 writes, and reads back, a raw disk in QEMU's own format, version 3, as
// docs/interop/qcow2.txt of QEMU describes it: without compression, snapshots
// or backing file. Clusters of zeros are left out. The bytes depend on the disk
// alone.
//
// It is here because qemu-img is not on every machine that builds images, and
// may write other bytes with each release.
package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

const (
	clusterBits = 16
	cluster     = 1 << clusterBits
	// perTable is how many clusters a table of the second level names.
	perTable = cluster / 8
	// perBlock is how many clusters a block of reference counts, of 16 bits
	// each, counts.
	perBlock = cluster / 2
	// maxSize keeps the first level and the table of reference counts in one
	// cluster each.
	maxSize = 1 << 40
	// once marks what is used by nothing else.
	once = 1 << 63
)

// ErrSize is wrapped by errors about a disk that is empty, too large, or not of
// whole sectors.
var ErrSize = errors.New("not a size for a disk")

// Write writes the raw disk of size bytes to w. It reads the disk twice.
func Write(w io.Writer, disk io.ReaderAt, size int64) error {
	if size <= 0 || size > maxSize || size%512 != 0 {
		return fmt.Errorf("%d bytes: %w", size, ErrSize)
	}
	var used []uint64
	err := each(disk, size, func(n uint64, _ []byte) error {
		used = append(used, n)
		return nil
	})
	if err != nil {
		return err
	}
	for _, b := range plan(used, size) {
		if _, err := w.Write(b); err != nil {
			return fmt.Errorf("write the tables of the disk: %w", err)
		}
	}
	changed, next := errors.New("it changes while it is read"), 0
	err = each(disk, size, func(n uint64, b []byte) error {
		if next == len(used) || used[next] != n {
			return changed
		}
		next++
		_, err := w.Write(b)
		return err
	})
	if err == nil && next < len(used) {
		err = changed
	}
	if err != nil {
		return fmt.Errorf("write the content of the disk: %w", err)
	}
	return nil
}

// each calls do with every cluster that is not all zeros, and its number. The
// last is filled up with zeros.
func each(disk io.ReaderAt, size int64, do func(uint64, []byte) error) error {
	b, zeros := make([]byte, cluster), make([]byte, cluster)
	r := io.NewSectionReader(disk, 0, size)
	for n, at := uint64(0), int64(0); at < size; n, at = n+1, at+cluster {
		clear(b)
		if _, err := io.ReadFull(r, b[:min(cluster, size-at)]); err != nil {
			return fmt.Errorf("read the disk at %d: %w", at, err)
		}
		if bytes.Equal(b, zeros) {
			continue
		}
		if err := do(n, b); err != nil {
			return err
		}
	}
	return nil
}

// plan returns the clusters before the content: the header, the table and
// the blocks of reference counts, and the two levels of tables. The content's
// clusters stand behind them in their order.
func plan(used []uint64, size int64) [][]byte {
	var groups []uint64 // the tables of the second level that are needed
	for _, n := range used {
		groups = append(groups, n/perTable)
	}
	groups = slices.Compact(groups)
	blocks := 1
	total := func() int { return 3 + blocks + len(groups) + len(used) }
	for blocks*perBlock < total() {
		blocks++
	}
	tables := make([][]byte, total()-len(used))
	for i := range tables {
		tables[i] = make([]byte, cluster)
	}
	head, counts, level1, level2 := tables[0], tables[1:2+blocks], tables[2+blocks], tables[3+blocks:]
	put := func(table []byte, i uint64, cluster int, flag uint64) {
		binary.BigEndian.PutUint64(table[8*i:], uint64(cluster)<<clusterBits|flag)
	}
	for i := range blocks {
		put(counts[0], uint64(i), 2+i, 0)
	}
	for i := range total() {
		binary.BigEndian.PutUint16(counts[1+i/perBlock][2*(i%perBlock):], 1)
	}
	for i, g := range groups {
		put(level1, g, 3+blocks+i, once)
	}
	for i, n := range used {
		table, _ := slices.BinarySearch(groups, n/perTable)
		put(level2[table], n%perTable, len(tables)+i, once)
	}
	copy(head, header(size, blocks))
	return tables
}

// header is that of a disk with so many blocks of reference counts.
func header(size int64, blocks int) []byte {
	b := []byte("QFI\xfb")
	put32, put64 := binary.BigEndian.AppendUint32, binary.BigEndian.AppendUint64
	b = put32(b, 3)
	b = append(b, make([]byte, 12)...) // no backing file
	b = put32(b, clusterBits)
	b = put64(b, uint64(size))
	b = put32(b, 0) // not encrypted
	b = put32(b, uint32((size+cluster*perTable-1)/(cluster*perTable)))
	b = put64(b, uint64(2+blocks)<<clusterBits) // the first level
	b = put64(b, 1<<clusterBits)                // the table of reference counts
	b = put32(b, 1)
	b = append(b, make([]byte, 12+24)...) // no snapshots, no features
	b = put32(b, 4)                       // reference counts of 1<<4 bits
	return put32(b, 104)                  // the size of this header
}
