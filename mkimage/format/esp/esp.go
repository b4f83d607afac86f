// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package esp makes EFI system partitions: FAT32 file systems, as Microsoft's
// specification of 2000 has them, that are as large as the files in them need.
//
// It is FAT32 at any size, since the UEFI specification (13.3) lets firmware
// expect nothing else on a fixed disk. FAT32 begins with 65525 clusters: with
// clusters of one sector the smallest partition has 33 MiB, less than the kernel
// image in it.
//
// It is own code, since the library for it, go-diskfs, takes the time of files
// from the clock or an environment variable of the process, has no way to set
// the serial number, and makes FAT32 with too few clusters without a word.
//
// Trust: files and names are the builder's own. Nothing is read back.
package esp

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
)

const (
	// sector is also the size of a cluster.
	sector = 512
	mib    = 1 << 20
	// reserved is the number of sectors before the first table.
	reserved = 32
	fats     = 2
	// minClusters is what makes a file system FAT32. The specification asks to
	// stay 16 away from the limit, as some count wrongly.
	minClusters = 65525 + 16
	rootCluster = 2
	// maxContent keeps all sizes within 32 bits.
	maxContent = 2 << 30
	maxFiles   = 1000
)

// ErrFile is wrapped by errors about files that cannot be in the partition.
var ErrFile = errors.New("not a file for a system partition")

// File is one file. Path is relative, with slashes; its parts are upper-case
// names of 8 letters and digits with a suffix of 3, the only names that need no
// further entries in a directory. Firmware does not look at the case.
type File struct {
	Path string
	Data []byte
}

// New returns a partition with files, and its size in bytes, of whole MiB. The
// serial number should follow from the files; all times are the first that FAT
// knows.
func New(serial uint32, files []File) (io.Reader, int64, error) {
	nodes, err := tree(files)
	if err != nil {
		return nil, 0, err
	}
	next := uint32(rootCluster)
	for _, n := range nodes {
		if n.clusters() > 0 {
			n.first = next
		}
		next += n.clusters()
	}
	v := volume{serial: serial, used: next - rootCluster}
	for v.clusters < max(v.used, minClusters) {
		v.sectors += mib / sector
		// Enough for a cluster in each of the sectors, tables or not.
		v.fat = up(4 * (v.sectors + 2))
		v.clusters = v.sectors - min(v.sectors, reserved+fats*v.fat)
	}
	table := v.table(nodes)
	parts := []io.Reader{bytes.NewReader(v.head()), bytes.NewReader(table), bytes.NewReader(table)}
	for _, n := range nodes {
		b := n.content()
		parts = append(parts, bytes.NewReader(b), zeros(int64(n.clusters())*sector-int64(len(b))))
	}
	parts = append(parts, zeros(int64(v.clusters-v.used)*sector))
	return io.MultiReader(parts...), int64(v.sectors) * sector, nil
}

// up returns how many sectors n bytes take.
func up(n uint32) uint32 { return (n + sector - 1) / sector }

// zeros returns a reader of n zeros.
func zeros(n int64) io.Reader { return io.LimitReader(zero{}, n) }

type zero struct{}

func (zero) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// tree returns the nodes of all files and their directories, each before what
// is in it. The first is the root.
func tree(files []File) ([]*node, error) {
	if len(files) == 0 || len(files) > maxFiles {
		return nil, fmt.Errorf("%d files: %w", len(files), ErrFile)
	}
	sorted := slices.SortedFunc(slices.Values(files), func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	t := builder{".": {dir: true}}
	left := maxContent
	for _, f := range sorted {
		if len(f.Data) > left {
			return nil, fmt.Errorf("%q of %d bytes is too large: %w", f.Path, len(f.Data), ErrFile)
		}
		left -= len(f.Data)
		if t[f.Path] != nil {
			return nil, fmt.Errorf("%q is there twice: %w", f.Path, ErrFile)
		}
		n, err := t.add(f.Path)
		if err != nil {
			return nil, err
		}
		n.data = f.Data
	}
	return t["."].list(nil), nil
}
