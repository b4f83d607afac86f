// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pe hashes programs of UEFI as firmware does before it starts them, by
// the rules of Authenticode in the way that edk2 has them
// (DxeTpm2MeasureBootLib): no padding, sections by their place in the file, and
// what follows them but a signature. It also finds the sections of a program,
// such as those of a unified kernel image.
//
// Trust: a file may be anybody's, and every offset in it wrong.
package pe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"slices"
	"unicode/utf16"
)

// ErrImage is wrapped by errors about a file that is no program of UEFI.
var ErrImage = errors.New("no UEFI program")

const (
	dosHeader   = 0x40
	coffHeader  = 24 // with its mark
	sectionSize = 40
	maxSections = 96
	securityDir = 4

	pe32, pe32plus = 0x10b, 0x20b
)

// image are the places that the hash goes by.
type image struct {
	data     []byte
	checksum int // 4 bytes that do not count
	security int // 8 bytes of the directory that do not count; 0 if there is none
	headers  int // size of all headers
	table    int // where the headers of sections begin
	count    int // of sections
	signed   int // size of the signature at the end
}

// section is where a section lies in the file, and how large it is in memory.
type section struct {
	name             string
	at, size, memory int
}

// Authenticode returns the digest of a program by h, which is reset first.
func Authenticode(h hash.Hash, data []byte) ([]byte, error) {
	i, err := parse(data)
	if err != nil {
		return nil, err
	}
	sections, err := i.sections()
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(sections, func(a, b section) int { return a.at - b.at })
	h.Reset()
	h.Write(data[:i.checksum])
	rest := i.checksum + 4
	if i.security > 0 {
		h.Write(data[rest:i.security])
		rest = i.security + 8
	}
	h.Write(data[rest:i.headers])
	summed := i.headers
	for _, s := range sections {
		h.Write(data[s.at : s.at+s.size])
		summed += s.size
	}
	if end := len(data) - i.signed; end > summed {
		h.Write(data[summed:end])
	}
	return h.Sum(nil), nil
}

func parse(data []byte) (*image, error) {
	bad := func(what string) error { return fmt.Errorf("%s: %w", what, ErrImage) }
	u16 := func(at int) int { return int(binary.LittleEndian.Uint16(data[at:])) }
	u32 := func(at int) int { return int(binary.LittleEndian.Uint32(data[at:])) }
	if len(data) < dosHeader || string(data[:2]) != "MZ" {
		return nil, bad("it does not begin with MZ")
	}
	coff := u32(0x3c)
	if coff > len(data)-coffHeader || string(data[coff:coff+4]) != "PE\x00\x00" {
		return nil, bad("there is no PE header")
	}
	count, optional, size := u16(coff+6), coff+coffHeader, u16(coff+20)
	directories := map[int]int{pe32: 96, pe32plus: 112}
	if count > maxSections || size < 2 || optional+size+count*sectionSize > len(data) || directories[u16(optional)] == 0 || size < directories[u16(optional)] {
		return nil, bad(fmt.Sprintf("headers with %d sections and %d optional bytes", count, size))
	}
	i := &image{data: data, checksum: optional + 64, headers: u32(optional + 60)}
	first := directories[u16(optional)]
	if n := u32(optional + first - 4); n > securityDir && size >= first+8*(securityDir+1) {
		i.security = optional + first + 8*securityDir
		i.signed = u32(i.security + 4)
	}
	i.table, i.count = optional+size, count
	if i.headers < i.table+count*sectionSize || i.headers > len(data) || i.signed > len(data)-i.headers {
		return nil, bad(fmt.Sprintf("headers of %d bytes, signature of %d", i.headers, i.signed))
	}
	return i, nil
}

// sections are in the order of their headers. Those without content in the file
// lie at its start.
func (i *image) sections() ([]section, error) {
	var list []section
	for n := range i.count {
		b := i.data[i.table+n*sectionSize:][:sectionSize]
		u32 := func(at int) int { return int(binary.LittleEndian.Uint32(b[at:])) }
		s := section{memory: u32(8), size: u32(16), at: u32(20)}
		if s.size == 0 {
			s.at = 0
		}
		if s.at > len(i.data) || s.size > len(i.data)-s.at {
			return nil, fmt.Errorf("section %d of %d bytes at %d: %w", n, s.size, s.at, ErrImage)
		}
		name, _, _ := bytes.Cut(b[:8], []byte{0})
		s.name = string(name)
		list = append(list, s)
	}
	return list, nil
}

// LoadOptions is a text as a program gets it from the firmware, and as it is
// measured: UTF-16 with a zero at its end.
func LoadOptions(text string) []byte {
	var out []byte
	for _, c := range utf16.Encode([]rune(text + "\x00")) {
		out = binary.LittleEndian.AppendUint16(out, c)
	}
	return out
}
