// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package uki writes unified kernel images: a UEFI program, systemd's stub, with
// kernel, initrd and command line as sections of it, so that one hash covers
// all. The layout is that of the UAPI group's specification.
//
// Trust: the stub is an input that is pinned by digest. The sections of an image
// are read back by measurements/pe.
package uki

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

const (
	coffHeader    = 24
	sectionHeader = 40
	pe32plus      = 0x20b
	// initialised data that can be read.
	readableData = 0x40000040
	maxSize      = 1 << 30
	maxSections  = 64
)

// ErrImage is wrapped by errors about a stub or an image that is none.
var ErrImage = errors.New("no usable UEFI image")

// Section is a part of an image.
type Section struct {
	Name string
	Data []byte
}

// header reads and writes numbers of a header in place.
type header struct{ b []byte }

func (h header) u16(at int) int       { return int(binary.LittleEndian.Uint16(h.b[at:])) }
func (h header) u32(at int) int       { return int(binary.LittleEndian.Uint32(h.b[at:])) }
func (h header) set16(at, v int)      { binary.LittleEndian.PutUint16(h.b[at:], uint16(v)) }
func (h header) set32(at, v int)      { binary.LittleEndian.PutUint32(h.b[at:], uint32(v)) }
func (h header) section(n int) header { return header{h.b[n*sectionHeader:]} }

// stub is the program with its headers taken apart.
type stub struct {
	data                    []byte
	coff, optional, table   int
	count                   int
	fileAlign, sectionAlign int
	headers                 int // their size
	end                     int // of the sections in the file
	last, first             int // address behind the last section, and of the first
}

// Write returns stub with sections added, in their order. The time in its
// header becomes epoch, and a signature of the stub is dropped.
func Write(program []byte, sections []Section, epoch uint32) ([]byte, error) {
	s, err := parse(program)
	if err != nil {
		return nil, fmt.Errorf("stub: %w", err)
	}
	if err := s.check(sections); err != nil {
		return nil, err
	}
	used := s.table + (s.count+len(sections))*sectionHeader
	headers := max(s.headers, up(used, s.fileAlign))
	if headers > s.first {
		return nil, fmt.Errorf("stub: no room for %d more sections: %w", len(sections), ErrImage)
	}
	out := make([]byte, headers, headers+s.end)
	copy(out, program[:s.headers])
	out = append(out, program[s.headers:s.end]...)
	h := header{out}
	s.rewrite(h, headers, epoch)
	address, added := s.last, 0
	for i, x := range sections {
		out = append(out, make([]byte, up(len(out), s.fileAlign)-len(out))...)
		at, size := len(out), up(len(x.Data), s.fileAlign)
		out = append(append(out, x.Data...), make([]byte, size-len(x.Data))...)
		address = up(address, s.sectionAlign)
		entry := header{out[s.table:]}.section(s.count + i)
		clear(entry.b[:sectionHeader])
		copy(entry.b[:8], x.Name)
		for _, f := range [][2]int{{8, len(x.Data)}, {12, address}, {16, size}, {20, at}, {36, readableData}} {
			entry.set32(f[0], f[1])
		}
		address, added = address+len(x.Data), added+size
	}
	h = header{out}
	h.set16(s.coff+6, s.count+len(sections))
	h.set32(s.optional+56, up(address, s.sectionAlign))
	h.set32(s.optional+8, h.u32(s.optional+8)+added)
	return out, nil
}

// rewrite changes what is not about the new sections.
func (s *stub) rewrite(h header, headers int, epoch uint32) {
	h.set32(s.coff+8, int(epoch))
	h.set32(s.coff+12, 0) // symbols, which are behind the sections
	h.set32(s.coff+16, 0)
	h.set32(s.optional+60, headers)
	h.set32(s.optional+64, 0)  // checksum
	h.set32(s.optional+144, 0) // signature
	h.set32(s.optional+148, 0)
	for n := range s.count {
		entry := header{h.b[s.table:]}.section(n)
		if at := entry.u32(20); at > 0 {
			entry.set32(20, at+headers-s.headers)
		}
	}
}

func parse(b []byte) (*stub, error) {
	bad := func(format string, args ...any) error { return fmt.Errorf(format+": %w", append(args, ErrImage)...) }
	h := header{b}
	if len(b) < 0x40 || len(b) > maxSize || string(b[:2]) != "MZ" {
		return nil, bad("%d bytes that do not begin with MZ", len(b))
	}
	s := &stub{data: b, coff: h.u32(0x3c)}
	if s.coff > len(b)-coffHeader-240 || string(b[s.coff:s.coff+4]) != "PE\x00\x00" {
		return nil, bad("there is no PE header")
	}
	s.optional, s.count = s.coff+coffHeader, h.u16(s.coff+6)
	s.table = s.optional + h.u16(s.coff+20)
	if h.u16(s.optional) != pe32plus || h.u16(s.coff+20) < 152 || s.count == 0 || s.count > maxSections || s.table+s.count*sectionHeader > len(b) {
		return nil, bad("no 64-bit program with sections")
	}
	s.sectionAlign, s.fileAlign, s.headers = h.u32(s.optional+32), h.u32(s.optional+36), h.u32(s.optional+60)
	if s.fileAlign < 16 || s.fileAlign > 1<<16 || s.fileAlign&(s.fileAlign-1) != 0 || s.sectionAlign < s.fileAlign || s.sectionAlign > 1<<20 ||
		s.sectionAlign&(s.sectionAlign-1) != 0 || s.headers > len(b) || s.headers < s.table+s.count*sectionHeader {
		return nil, bad("alignments %d and %d, headers of %d bytes", s.fileAlign, s.sectionAlign, s.headers)
	}
	return s, s.measure(h)
}

// measure finds where the stub's sections end.
func (s *stub) measure(h header) error {
	s.end, s.first = s.headers, math.MaxInt32
	for n := range s.count {
		e := header{h.b[s.table:]}.section(n)
		size, address, raw, at := e.u32(8), e.u32(12), e.u32(16), e.u32(20)
		if at > len(s.data) || raw > len(s.data)-at || raw > 0 && at < s.headers || address > maxSize || size > maxSize {
			return fmt.Errorf("section %d of %d bytes at %d: %w", n, raw, at, ErrImage)
		}
		s.end = max(s.end, at+raw)
		s.last, s.first = max(s.last, address+max(size, raw)), min(s.first, address)
	}
	return nil
}

// check refuses names that the stub has, or that would be cut.
func (s *stub) check(sections []Section) error {
	taken := map[string]bool{}
	for n := range s.count {
		name, _, _ := bytes.Cut(header{s.data[s.table:]}.section(n).b[:8], []byte{0})
		taken[string(name)] = true
	}
	total := s.end
	for _, x := range sections {
		total += len(x.Data)
		if len(x.Name) < 2 || len(x.Name) > 8 || x.Name[0] != '.' || taken[x.Name] || len(x.Data) == 0 || total > maxSize {
			return fmt.Errorf("section %q of %d bytes: %w", x.Name, len(x.Data), ErrImage)
		}
		taken[x.Name] = true
	}
	if len(taken) > maxSections {
		return fmt.Errorf("%d sections: %w", len(taken), ErrImage)
	}
	return nil
}

func up(n, to int) int { return (n + to - 1) / to * to }
