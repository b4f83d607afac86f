// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package ext4 makes empty ext4 file systems, for a guest that has no mkfs.
//
// Trust boundary. It only writes: the device is an encrypted one of the guest's
// own. Every block of metadata is written, so nothing of what the device held
// before is ever read as metadata.
//
// The layout is that of the kernel's Documentation/filesystems/ext4: blocks of
// 4 KiB, extents, no journal (what is on the disk does not outlive the guest),
// no checksums (the layers below have better ones).
package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	blockSize      = 4096
	blocksPerGroup = 8 * blockSize // one bitmap is one block
	inodeSize      = 256
	descSize       = 32
	inodesPerBlock = blockSize / inodeSize
	bytesPerInode  = 160 << 10

	superOffset = 1024 // of the first superblock
	magic       = 0xef53
	firstInode  = 11
	rootInode   = 2
	lostInode   = 11

	incompatFiletype = 0x2
	incompatExtents  = 0x40
	roSparseSuper    = 0x1
	roLargeFile      = 0x2
	roExtraISize     = 0x40

	errorsReadOnly = 2
	extentsFlag    = 0x80000
	extentMagic    = 0xf30a
	modeDir        = 0o040000
	typeDir        = 2
	extraISize     = 32

	minBlocks = 64
	maxBlocks = 1 << 32
	zeroChunk = 1 << 20
)

// ErrSize is returned for a device on which no file system fits.
var ErrSize = errors.New("unsuitable size for ext4")

// layout is where everything is.
type layout struct {
	blocks, groups uint64
	gdtBlocks      uint64
	inodesPerGroup uint64
	tableBlocks    uint64
}

// plan lays a device of size bytes out.
func plan(size uint64) (layout, error) {
	l := layout{blocks: size / blockSize}
	if l.blocks < minBlocks || l.blocks >= maxBlocks {
		return l, fmt.Errorf("%d bytes: %w", size, ErrSize)
	}
	for {
		l.groups = (l.blocks + blocksPerGroup - 1) / blocksPerGroup
		l.gdtBlocks = (l.groups*descSize + blockSize - 1) / blockSize
		perGroup := (size/bytesPerInode + l.groups - 1) / l.groups
		perGroup = max((perGroup+inodesPerBlock-1)/inodesPerBlock*inodesPerBlock, inodesPerBlock)
		l.inodesPerGroup = min(perGroup, blocksPerGroup)
		l.tableBlocks = l.inodesPerGroup / inodesPerBlock
		last := l.groups - 1
		if l.length(last) > l.overhead(last)+8 {
			return l, nil
		}
		// The rest is too short for a group of its own.
		l.blocks = last * blocksPerGroup
		if l.blocks < minBlocks {
			return l, fmt.Errorf("%d bytes: %w", size, ErrSize)
		}
	}
}

// length is the number of blocks of a group.
func (l layout) length(g uint64) uint64 { return min(l.blocks-g*blocksPerGroup, blocksPerGroup) }

// overhead is how many of them are metadata, at the group's beginning.
func (l layout) overhead(g uint64) uint64 {
	n := 2 + l.tableBlocks
	if hasSuper(g) {
		n += 1 + l.gdtBlocks
	}
	return n
}

// data returns the first block of a group that is not metadata.
func (l layout) data(g uint64) uint64 { return g*blocksPerGroup + l.overhead(g) }

// hasSuper reports whether a group has a copy of the superblock: the first two
// and the powers of 3, 5 and 7.
func hasSuper(g uint64) bool {
	if g <= 1 {
		return true
	}
	for _, base := range []uint64{3, 5, 7} {
		n := g
		for n%base == 0 {
			n /= base
		}
		if n == 1 {
			return true
		}
	}
	return false
}

// used is how many blocks and inodes of a group are taken.
func (l layout) used(g uint64) (blocks, inodes, dirs uint64) {
	if g == 0 {
		return l.overhead(0) + 2, firstInode, 2 // the root and lost+found
	}
	return l.overhead(g), 0, 0
}

// Make makes a file system of size bytes on w, with the given UUID. It writes
// all metadata and nothing else.
func Make(w io.WriterAt, size uint64, uuid [16]byte) error {
	l, err := plan(size)
	if err != nil {
		return err
	}
	for g := range l.groups {
		if err := l.group(w, g, uuid); err != nil {
			return fmt.Errorf("write group %d of %d: %w", g, l.groups, err)
		}
	}
	if err := l.directories(w); err != nil {
		return fmt.Errorf("write directories: %w", err)
	}
	return nil
}

// group writes the metadata of one group.
func (l layout) group(w io.WriterAt, g uint64, uuid [16]byte) error {
	at := g * blocksPerGroup
	if hasSuper(g) {
		first := make([]byte, blockSize)
		offset := 0
		if g == 0 {
			offset = superOffset
		}
		l.super(first[offset:], g, uuid)
		if err := writeBlock(w, at, first); err != nil {
			return err
		}
		if err := writeBlock(w, at+1, l.descriptors()); err != nil {
			return err
		}
		at += 1 + l.gdtBlocks
	}
	blocks, inodes, _ := l.used(g)
	if err := writeBlock(w, at, bitmap(blocks, l.length(g))); err != nil {
		return err
	}
	if err := writeBlock(w, at+1, bitmap(inodes, l.inodesPerGroup)); err != nil {
		return err
	}
	return zero(w, (at+2)*blockSize, l.tableBlocks*blockSize)
}

// super writes the superblock's copy of group g.
func (l layout) super(b []byte, g uint64, uuid [16]byte) {
	order := binary.LittleEndian
	var freeBlocks, freeInodes uint64
	for i := range l.groups {
		blocks, inodes, _ := l.used(i)
		freeBlocks += l.length(i) - blocks
		freeInodes += l.inodesPerGroup - inodes
	}
	for offset, value := range map[int]uint64{
		0: l.inodesPerGroup * l.groups, 4: l.blocks, 12: freeBlocks, 16: freeInodes,
		24: 2, 28: 2, // block and cluster size: 1024 << 2
		32: blocksPerGroup, 36: blocksPerGroup, 40: l.inodesPerGroup,
		76: 1, // revision with sizes of its own
		84: firstInode, 96: incompatFiletype | incompatExtents, 100: roSparseSuper | roLargeFile | roExtraISize,
	} {
		order.PutUint32(b[offset:], uint32(value))
	}
	for offset, value := range map[int]uint16{
		54: 0xffff, 56: magic, 58: 1, 60: errorsReadOnly, 88: inodeSize, 90: uint16(g), 348: extraISize, 350: extraISize,
	} {
		order.PutUint16(b[offset:], value)
	}
	copy(b[104:120], uuid[:])
}

// descriptors returns the table of all groups.
func (l layout) descriptors() []byte {
	b := make([]byte, l.gdtBlocks*blockSize)
	order := binary.LittleEndian
	for g := range l.groups {
		at := g * blocksPerGroup
		if hasSuper(g) {
			at += 1 + l.gdtBlocks
		}
		blocks, inodes, dirs := l.used(g)
		d := b[g*descSize:]
		order.PutUint32(d[0:], uint32(at))
		order.PutUint32(d[4:], uint32(at+1))
		order.PutUint32(d[8:], uint32(at+2))
		order.PutUint16(d[12:], uint16(l.length(g)-blocks))
		order.PutUint16(d[14:], uint16(l.inodesPerGroup-inodes))
		order.PutUint16(d[16:], uint16(dirs))
	}
	return b
}

// bitmap has the first used bits set, and those from end on, which stand for
// nothing.
func bitmap(used, end uint64) []byte {
	b := make([]byte, blockSize)
	for i := range uint64(8 * blockSize) {
		if i < used || i >= end {
			b[i/8] |= 1 << (i % 8)
		}
	}
	return b
}

// directories writes the root and lost+found, each of one block.
func (l layout) directories(w io.WriterAt) error {
	table := (1 + l.gdtBlocks + 2) * blockSize
	for _, d := range []struct {
		inode  uint64
		mode   uint16
		links  uint16
		block  uint64
		parent uint32
		names  []string
	}{
		{rootInode, modeDir | 0o755, 3, l.data(0), rootInode, []string{"lost+found"}},
		{lostInode, modeDir | 0o700, 2, l.data(0) + 1, rootInode, nil},
	} {
		if _, err := w.WriteAt(inode(d.mode, d.links, d.block), int64(table+(d.inode-1)*inodeSize)); err != nil {
			return err
		}
		if err := writeBlock(w, d.block, directory(uint32(d.inode), d.parent, d.names)); err != nil {
			return err
		}
	}
	return nil
}

// inode is a directory's, of one block.
func inode(mode, links uint16, block uint64) []byte {
	b := make([]byte, inodeSize)
	order := binary.LittleEndian
	order.PutUint16(b[0:], mode)
	order.PutUint32(b[4:], blockSize)
	order.PutUint16(b[26:], links)
	order.PutUint32(b[28:], blockSize/512)
	order.PutUint32(b[32:], extentsFlag)
	order.PutUint16(b[40:], extentMagic)
	order.PutUint16(b[42:], 1) // extents
	order.PutUint16(b[44:], 4) // room for them
	order.PutUint16(b[56:], 1) // blocks of the first
	order.PutUint32(b[60:], uint32(block))
	order.PutUint16(b[128:], extraISize)
	return b
}

// directory is the content of one. names are directories in it, all of them
// lost+found.
func directory(self, parent uint32, names []string) []byte {
	b := make([]byte, blockSize)
	at := 0
	put := func(number uint32, name string, length int) {
		order := binary.LittleEndian
		order.PutUint32(b[at:], number)
		order.PutUint16(b[at+4:], uint16(length))
		b[at+6], b[at+7] = byte(len(name)), typeDir
		copy(b[at+8:], name)
		at += length
	}
	put(self, ".", 12)
	if len(names) == 0 {
		put(parent, "..", blockSize-at)
		return b
	}
	put(parent, "..", 12)
	put(lostInode, names[0], blockSize-at)
	return b
}

func writeBlock(w io.WriterAt, block uint64, b []byte) error {
	_, err := w.WriteAt(b, int64(block*blockSize))
	return err
}

func zero(w io.WriterAt, at, n uint64) error {
	chunk := make([]byte, min(n, zeroChunk))
	for n > 0 {
		part := min(n, zeroChunk)
		if _, err := w.WriteAt(chunk[:part], int64(at)); err != nil {
			return err
		}
		at, n = at+part, n-part
	}
	return nil
}
