// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package ukitest makes small programs of UEFI for tests: stubs and kernels that
// firmware would hash, and that do nothing.
package ukitest

// Program returns a program of one section, .text, that holds content, of at most
// 512 bytes.
func Program(content string) []byte {
	b := make([]byte, 0x600)
	copy(b, "MZ")
	b[0x3c] = 0x40
	copy(b[0x40:], "PE\x00\x00")
	b[0x44], b[0x45] = 0x64, 0x86 // x86-64
	b[0x46], b[0x54] = 1, 240
	copy(b[0x58:], []byte{0x0b, 0x02})
	for at, v := range map[int]byte{32: 0x10, 36: 0x02, 60: 0x04} { // alignments and size of headers
		b[0x58+at+1] = v
	}
	b[0x58+108] = 16 // directories
	s := b[0x58+240:]
	copy(s, ".text")
	s[9], s[13], s[17], s[21] = 0x02, 0x10, 0x02, 0x04
	copy(b[0x400:], content)
	return b
}
