// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package uki

import (
	"bytes"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"errors"
	"testing"

	read "cocoon/measurements/pe"
)

// program makes a stub of two sections, with a signature behind them.
func program() []byte {
	b := make([]byte, 0x400+0x200+0x200+0x100)
	put16, put32 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32
	copy(b, "MZ")
	put32(b[0x3c:], 0x40)
	copy(b[0x40:], "PE\x00\x00")
	put16(b[0x44:], 0x8664)
	put16(b[0x46:], 2)
	put32(b[0x48:], 0x5f5e0ff) // a time
	put32(b[0x4c:], 0x900)     // symbols
	put32(b[0x50:], 3)
	put16(b[0x54:], 240)
	o := 0x58
	put16(b[o:], pe32plus)
	put32(b[o+8:], 0x200)
	put32(b[o+32:], 0x1000)
	put32(b[o+36:], 0x200)
	put32(b[o+56:], 0x3000)
	put32(b[o+60:], 0x400)
	put32(b[o+64:], 0x1234)
	put32(b[o+108:], 16)
	put32(b[o+144:], 0x800)
	put32(b[o+148:], 0x100)
	for i, s := range []struct {
		name      string
		size, va  uint32
		raw, file uint32
	}{{".text", 0x1f0, 0x1000, 0x200, 0x400}, {".sbat", 0x10, 0x2000, 0x200, 0x600}} {
		e := b[o+240+40*i:]
		copy(e, s.name)
		put32(e[8:], s.size)
		put32(e[12:], s.va)
		put32(e[16:], s.raw)
		put32(e[20:], s.file)
	}
	copy(b[0x400:], "code")
	copy(b[0x600:], "sbat,1,sbat,1\n")
	copy(b[0x800:], "signature")
	return b
}

func sections() []Section {
	return []Section{{".osrel", []byte("ID=x\n")}, {".cmdline", []byte("quiet")}, {".initrd", bytes.Repeat([]byte("i"), 5000)}, {".linux", []byte("kernel")}}
}

func write(t *testing.T, s []Section) []byte {
	t.Helper()
	b, err := Write(program(), s, 77)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWhatIsWrittenIsAProgramWithTheSections(t *testing.T) {
	t.Parallel()
	b := write(t, sections())
	f, err := pe.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	o, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok || f.TimeDateStamp != 77 || f.NumberOfSymbols != 0 || o.CheckSum != 0 || o.DataDirectory[4].Size != 0 || o.SizeOfImage != 0x8000 || len(b)%0x200 != 0 ||
		o.SizeOfInitializedData != 0x200+0x200+0x200+0x1400+0x200 {
		t.Errorf("header %+v %+v, %d bytes", f.FileHeader, o, len(b))
	}
	got, err := read.Sections(b)
	want := append([]Section{{".text", nil}, {".sbat", nil}}, sections()...)
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d sections, %v", len(got), err)
	}
	for i, s := range want {
		if got[i].Name != s.Name || s.Data != nil && !bytes.Equal(got[i].Data, s.Data) {
			t.Errorf("section %d is %s of %d bytes", i, got[i].Name, len(got[i].Data))
		}
	}
	if !bytes.HasPrefix(got[0].Data, []byte("code")) || bytes.Contains(b, []byte("signature")) {
		t.Error("the stub's code is lost, or its signature is not")
	}
	for i := 1; i < len(f.Sections); i++ {
		if a, b := f.Sections[i-1], f.Sections[i]; b.VirtualAddress%0x1000 != 0 || b.VirtualAddress < a.VirtualAddress+a.VirtualSize || b.Offset < a.Offset+a.Size {
			t.Errorf("section %s overlaps the one before", b.Name)
		}
	}
	if _, err := read.Authenticode(sha256.New(), b); err != nil {
		t.Errorf("firmware would not take it: %v", err)
	}
	if !bytes.Equal(b, write(t, sections())) {
		t.Error("a second run gives other bytes")
	}
}

func TestHeadersGrowIfThereIsNoRoom(t *testing.T) {
	t.Parallel()
	var many []Section
	for c := byte('a'); c <= 't'; c++ {
		many = append(many, Section{Name: ".s" + string(c), Data: []byte{c}})
	}
	b := write(t, many)
	got, err := read.Sections(b)
	if err != nil || len(got) != 22 || string(got[21].Data) != "t" || !bytes.HasPrefix(got[0].Data, []byte("code")) {
		t.Fatalf("%d sections, %v", len(got), err)
	}
	if h := binary.LittleEndian.Uint32(b[0x58+60:]); h != 0x600 {
		t.Errorf("headers of %#x bytes", h)
	}
}

func TestStubsAndSectionsThatDoNotFitAreRefused(t *testing.T) {
	t.Parallel()
	put16, put32 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32
	const o = 0x58
	for name, spoil := range map[string]func([]byte) []byte{
		"empty": func([]byte) []byte { return nil }, "no MZ": func(b []byte) []byte { b[0]++; return b }, "no PE": func(b []byte) []byte { b[0x40]++; return b },
		"PE outside": func(b []byte) []byte { put32(b[0x3c:], 0xfffffff0); return b }, "32 bits": func(b []byte) []byte { put16(b[o:], 0x10b); return b },
		"no sections": func(b []byte) []byte { put16(b[0x46:], 0); return b }, "many sections": func(b []byte) []byte { put16(b[0x46:], 65); return b },
		"short header": func(b []byte) []byte { put16(b[0x54:], 151); return b }, "odd alignment": func(b []byte) []byte { put32(b[o+36:], 100); return b },
		"no alignment": func(b []byte) []byte { put32(b[o+36:], 0); return b }, "alignments reversed": func(b []byte) []byte { put32(b[o+32:], 0x100); return b },
		"headers outside": func(b []byte) []byte { put32(b[o+60:], 0xffffff); return b }, "headers too small": func(b []byte) []byte { put32(b[o+60:], 0x80); return b },
		"section outside": func(b []byte) []byte { put32(b[o+240+20:], 0xffffff); return b }, "section too large": func(b []byte) []byte { put32(b[o+240+16:], 0xffffff); return b },
		"section in headers": func(b []byte) []byte { put32(b[o+240+20:], 0x200); return b }, "section far away": func(b []byte) []byte { put32(b[o+240+12:], 0xf0000000); return b },
	} {
		if b, err := Write(spoil(program()), sections(), 0); !errors.Is(err, ErrImage) {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	for name, s := range map[string][]Section{
		"twice": {{".a", []byte("x")}, {".a", []byte("y")}}, "the stub's": {{".sbat", []byte("x")}}, "empty": {{".a", nil}}, "long name": {{".toolongx", []byte("x")}},
		"no dot": {{"ab", []byte("x")}}, "no name": {{"", []byte("x")}},
	} {
		if b, err := Write(program(), s, 0); !errors.Is(err, ErrImage) {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	hidden := program()
	copy(hidden[0x58+240+40:], ".a\x00b") // whose name readers take for .a
	if b, err := Write(hidden, []Section{{".a", []byte("x")}}, 0); !errors.Is(err, ErrImage) {
		t.Errorf("a name with a zero in it: %d bytes, %v", len(b), err)
	}
	var many []Section
	for i := range 62 {
		many = append(many, Section{Name: string([]byte{'.', 'a' + byte(i/26), 'a' + byte(i%26)}), Data: []byte("x")})
	}
	if b, err := Write(program(), append(many, Section{".z", []byte("x")}), 0); !errors.Is(err, ErrImage) {
		t.Errorf("too many: %d bytes, %v", len(b), err)
	}
}

// A stub may be anything; what is made of it has its sections and the new ones.
func FuzzWrite(f *testing.F) {
	f.Add(program())
	whole, err := Write(program(), sections(), 77)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := Write(b, sections(), 0)
		if err != nil {
			if !errors.Is(err, ErrImage) {
				t.Error(err)
			}
			return
		}
		one, err := read.Sections(b)
		if err != nil { // such as a name that comes twice, which Write does not care about
			return
		}
		got, err := read.Sections(out)
		if err != nil || len(got) != len(one)+len(sections()) {
			t.Fatalf("%d sections became %d, %v", len(one), len(got), err)
		}
		for i, s := range one {
			if got[i].Name != s.Name || !bytes.Equal(got[i].Data, s.Data) {
				t.Errorf("section %d was %q of %d bytes and is %q of %d", i, s.Name, len(s.Data), got[i].Name, len(got[i].Data))
			}
		}
		for i, s := range sections() {
			if x := got[len(one)+i]; x.Name != s.Name || !bytes.Equal(x.Data, s.Data) {
				t.Errorf("section %q became %q of %d bytes", s.Name, x.Name, len(x.Data))
			}
		}
	})
}
