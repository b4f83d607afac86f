// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package ovmftest makes a small firmware image and a service module for tests:
// no code, but all that a VMM reads.
package ovmftest

import "encoding/binary"

// Places in the images.
const (
	size       = 8192
	ResetEIP   = 0x80b004
	HashTable  = 0x810c00
	SEVOffset  = 0x400 // of the metadata for SEV, from the end
	TDXOffset  = 0x800 // of that for TDX
	SVSMStart  = 0x120
	tdxEntries = 5
)

// Section is one of the metadata for SEV: address, size and type.
type Section [3]uint32

// entry is one of the table at the end.
type entry struct {
	id   [16]byte
	data []uint32
}

func sevEntry() entry {
	return entry{[16]byte{0x66, 0x65, 0x88, 0xdc, 0x4a, 0x98, 0x98, 0x47, 0xa7, 0x5e, 0x55, 0x85, 0xa7, 0xbf, 0x67, 0xcc}, []uint32{SEVOffset}}
}

func hashEntry(at uint32) entry {
	return entry{[16]byte{0x1f, 0x37, 0x55, 0x72, 0x3b, 0x3a, 0x04, 0x4b, 0x92, 0x7b, 0x1d, 0xa6, 0xef, 0xa8, 0xd4, 0x54}, []uint32{at, 0x400}}
}

func resetEntry(at uint32) entry {
	return entry{[16]byte{0xde, 0x71, 0xf7, 0x00, 0x7e, 0x1a, 0xcb, 0x4f, 0x89, 0x0e, 0x68, 0xc7, 0x7e, 0x2f, 0xb4, 0x4e}, []uint32{at}}
}

// Firmware returns the image of a firmware.
func Firmware() []byte {
	b := image(7)
	putSEV(b, Section{0x800000, 0x9000, 1}, Section{0x80a000, 0x3000, 1}, Section{0x80d000, 0x1000, 2}, Section{0x80e000, 0x1000, 3}, Section{0x80f000, 0x1000, 4}, Section{0x810000, 0x1000, 0x10})
	putTDX(b)
	tdx := entry{[16]byte{0x35, 0x65, 0x7a, 0xe4, 0x4a, 0x98, 0x98, 0x47, 0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2}, []uint32{TDXOffset}}
	putTable(b, tdx, sevEntry(), hashEntry(HashTable), resetEntry(ResetEIP))
	return b
}

// Describing returns an image that says of itself what another firmware does.
// With the digest of that one it stands for it.
func Describing(resetEIP, hashTable uint32, list ...Section) []byte {
	b := image(0)
	putSEV(b, list...)
	putTable(b, sevEntry(), hashEntry(hashTable), resetEntry(resetEIP))
	return b
}

// SVSM returns the image of a service module.
func SVSM() []byte {
	b := image(11)
	putSEV(b, Section{0x806000, 0x1000, 3}, Section{0x805000, 0x1000, 2}, Section{0x800000, 0x5000, 1})
	putTable(b, sevEntry(),
		entry{[16]byte{0x12, 0xa6, 0x89, 0xa7, 0x97, 0x05, 0x4b, 0x4c, 0xa4, 0x9f, 0xcb, 0xb1, 0xfe, 0x9d, 0x1d, 0xdd}, []uint32{SVSMStart}})
	return b
}

// image has a pattern in its first page.
func image(step int) []byte {
	b := make([]byte, size)
	for i := range b[:size/2] {
		b[i] = byte(i * step)
	}
	return b
}

func putSEV(b []byte, list ...Section) {
	sev := b[size-SEVOffset:]
	copy(sev, "ASEV")
	put := binary.LittleEndian.PutUint32
	put(sev[4:], uint32(16+12*len(list)))
	put(sev[8:], 1)
	put(sev[12:], uint32(len(list)))
	for i, s := range list {
		for n, v := range s {
			put(sev[16+12*i+4*n:], v)
		}
	}
}

func putTDX(b []byte) {
	tdx := b[size-TDXOffset:]
	copy(tdx, "TDVF")
	put := binary.LittleEndian.PutUint32
	put(tdx[4:], 16+32*tdxEntries)
	put(tdx[8:], 1)
	put(tdx[12:], tdxEntries)
	for i, s := range [tdxEntries]struct{ offset, raw, address, memory, kind, attributes uint32 }{
		{4096, 4096, 0xfffff000, 4096, 0, 1}, {0, 4096, 0xffffe000, 4096, 1, 0}, {0, 0, 0x810000, 8192, 3, 0}, {0, 0, 0x809000, 4096, 2, 0}, {0, 0, 0x900000, 4096, 4, 2},
	} {
		at := tdx[16+32*i:]
		put(at, s.offset)
		put(at[4:], s.raw)
		put(at[8:], s.address)
		put(at[16:], s.memory)
		put(at[24:], s.kind)
		put(at[28:], s.attributes)
	}
}

func putTable(b []byte, list ...entry) {
	var table []byte
	for _, e := range list {
		for _, n := range e.data {
			table = binary.LittleEndian.AppendUint32(table, n)
		}
		table = binary.LittleEndian.AppendUint16(table, uint16(4*len(e.data)+18))
		table = append(table, e.id[:]...)
	}
	table = binary.LittleEndian.AppendUint16(table, uint16(len(table)+18))
	table = append(table, 0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d)
	copy(b[size-32-len(table):], table)
}
