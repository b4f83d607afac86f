// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package ovmftest makes a small firmware image for tests: no code, but all
// that a VMM reads.
package ovmftest

import "encoding/binary"

// Places in the image.
const (
	size       = 8192
	ResetEIP   = 0x80b004
	HashTable  = 0x810c00
	SEVOffset  = 0x400 // of the metadata for SEV, from the end
	TDXOffset  = 0x800 // of that for TDX
	sevEntries = 6
	tdxEntries = 5
)

// Firmware returns the image.
func Firmware() []byte {
	b := make([]byte, size)
	for i := range b[:size/2] {
		b[i] = byte(i * 7)
	}
	sev := b[size-SEVOffset:]
	copy(sev, "ASEV")
	put := binary.LittleEndian.PutUint32
	put(sev[4:], 16+12*sevEntries)
	put(sev[8:], 1)
	put(sev[12:], sevEntries)
	for i, s := range [sevEntries][3]uint32{
		{0x800000, 0x9000, 1}, {0x80a000, 0x3000, 1}, {0x80d000, 0x1000, 2}, {0x80e000, 0x1000, 3}, {0x80f000, 0x1000, 4}, {0x810000, 0x1000, 0x10},
	} {
		for n, v := range s {
			put(sev[16+12*i+4*n:], v)
		}
	}
	tdx := b[size-TDXOffset:]
	copy(tdx, "TDVF")
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
	number := func(v ...uint32) []byte {
		var d []byte
		for _, n := range v {
			d = binary.LittleEndian.AppendUint32(d, n)
		}
		return d
	}
	var table []byte
	entry := func(id [16]byte, data []byte) {
		table = append(table, data...)
		table = binary.LittleEndian.AppendUint16(table, uint16(len(data)+18))
		table = append(table, id[:]...)
	}
	entry([16]byte{0x35, 0x65, 0x7a, 0xe4, 0x4a, 0x98, 0x98, 0x47, 0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2}, number(TDXOffset))
	entry([16]byte{0x66, 0x65, 0x88, 0xdc, 0x4a, 0x98, 0x98, 0x47, 0xa7, 0x5e, 0x55, 0x85, 0xa7, 0xbf, 0x67, 0xcc}, number(SEVOffset))
	entry([16]byte{0x1f, 0x37, 0x55, 0x72, 0x3b, 0x3a, 0x04, 0x4b, 0x92, 0x7b, 0x1d, 0xa6, 0xef, 0xa8, 0xd4, 0x54}, number(HashTable, 0x400))
	entry([16]byte{0xde, 0x71, 0xf7, 0x00, 0x7e, 0x1a, 0xcb, 0x4f, 0x89, 0x0e, 0x68, 0xc7, 0x7e, 0x2f, 0xb4, 0x4e}, number(ResetEIP))
	table = binary.LittleEndian.AppendUint16(table, uint16(len(table)+18))
	table = append(table, 0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d)
	copy(b[size-32-len(table):], table)
	return b
}
