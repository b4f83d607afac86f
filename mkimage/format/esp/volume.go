// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package esp

import "encoding/binary"

const (
	endOfChain  = 0x0fffffff
	mediaInFAT  = 0x0ffffff8
	infoSector  = 1
	backup      = 6
	fixedDisk   = 0xf8
	firstDrive  = 0x80
	extendedBPB = 0x29
)

// volume is the geometry of a file system, in sectors.
type volume struct {
	serial                       uint32
	sectors, fat, clusters, used uint32
}

// head is what stands before the tables: the boot sector and the numbers of
// free clusters, both twice.
func (v *volume) head() []byte {
	b := make([]byte, reserved*sector)
	for _, at := range []int{0, backup} {
		v.boot(b[at*sector:])
		v.info(b[(at+infoSector)*sector:])
	}
	return b
}

func (v *volume) boot(b []byte) {
	put16, put32 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32
	copy(b, "\xeb\x58\x90COCOON  ")
	put16(b[11:], sector)
	b[13], b[16], b[21] = 1, fats, fixedDisk
	put16(b[14:], reserved)
	// A geometry that nobody looks at, but for some that refuse zeros.
	put16(b[24:], 63)
	put16(b[26:], 255)
	put32(b[32:], v.sectors)
	put32(b[36:], v.fat)
	put32(b[44:], rootCluster)
	put16(b[48:], infoSector)
	put16(b[50:], backup)
	b[64], b[66] = firstDrive, extendedBPB
	put32(b[67:], v.serial)
	copy(b[71:], label+"FAT32   ")
	b[510], b[511] = 0x55, 0xaa
}

func (v *volume) info(b []byte) {
	put32 := binary.LittleEndian.PutUint32
	copy(b, "RRaA")
	copy(b[484:], "rrAa")
	put32(b[488:], v.clusters-v.used)
	put32(b[492:], rootCluster+v.used)
	b[510], b[511] = 0x55, 0xaa
}

// table returns the chains of clusters.
func (v *volume) table(nodes []*node) []byte {
	b := make([]byte, v.fat*sector)
	put := func(n, next uint32) { binary.LittleEndian.PutUint32(b[4*n:], next) }
	put(0, mediaInFAT)
	put(1, endOfChain)
	for _, n := range nodes {
		last := n.first + n.clusters() - 1
		if n.clusters() == 0 {
			continue
		}
		for c := n.first; c < last; c++ {
			put(c, c+1)
		}
		put(last, endOfChain)
	}
	return b
}
