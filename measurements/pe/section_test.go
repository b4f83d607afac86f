// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package pe

import (
	"bytes"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"errors"
	"testing"

	"cocoon/internal/sharedtest"
)

// parts is program with its two sections named, the first of which is shorter in
// memory than in the file.
func parts(first, second string) []byte {
	b := program()
	for i, name := range []string{first, second} {
		s := b[0x98+240+40*i:]
		copy(s[:8], name)
		binary.LittleEndian.PutUint32(s[8:], uint32(0x1f0+0x20*i))
	}
	return b
}

func TestSectionsAreAsLongAsInMemory(t *testing.T) {
	t.Parallel()
	b := parts(".cmdline", ".sbat\x00x")
	list, err := Sections(b)
	if err != nil || len(list) != 2 {
		t.Fatalf("%d sections, %v", len(list), err)
	}
	if s := list[0]; s.Name != ".cmdline" || !bytes.Equal(s.Data, b[0x600:0x7f0]) || s.Zeros != 0 {
		t.Errorf("%q of %d bytes and %d zeros", s.Name, len(s.Data), s.Zeros)
	}
	if s := list[1]; s.Name != ".sbat" || !bytes.Equal(s.Data, b[0x400:0x600]) || s.Zeros != 0x10 {
		t.Errorf("%q of %d bytes and %d zeros", s.Name, len(s.Data), s.Zeros)
	}
}

func TestASectionOfZerosNeedsNothingInTheFile(t *testing.T) {
	t.Parallel()
	b := parts(".text", ".sbat")
	header := b[0x98+240+40:]
	binary.LittleEndian.PutUint32(header[16:], 0)
	binary.LittleEndian.PutUint32(header[20:], 0xffffffff)
	list, err := Sections(b)
	if err != nil || len(list) != 2 || list[1].Name != ".sbat" || len(list[1].Data) != 0 || list[1].Zeros != 0x210 {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestSectionsThatReadersDoNotAgreeOnAreRefused(t *testing.T) {
	t.Parallel()
	put := binary.LittleEndian.PutUint32
	for name, b := range map[string][]byte{
		"nothing": nil, "the same name": parts(".linux", ".linux"), "the same name up to its end": parts(".linux", ".linux\x00x"),
		"no names": parts("", ""),
		"outside":  func() []byte { b := parts(".a", ".b"); put(b[0x98+240+20:], 0xfffffff0); return b }(),
		"too long": func() []byte { b := parts(".a", ".b"); put(b[0x98+240+40+16:], 0x7fffffff); return b }(),
	} {
		if list, err := Sections(b); !errors.Is(err, ErrImage) {
			t.Errorf("%s: %d sections, %v", name, len(list), err)
		}
	}
}

// The standard library's reader is another one of the same format.
func TestTheStandardReaderFindsTheSameSections(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"basic", "unsorted", "gap", "trailer", "signed", "signed-trailer", "emptysec"} {
		data := sharedtest.Read(t, "measure/pcr/pe/"+name+".efi")
		f, err := pe.NewFile(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		list, err := Sections(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, want := range f.Sections {
			content := data[want.Offset:][:min(want.Size, want.VirtualSize)]
			if len(list) == 0 || list[0].Name != want.Name || !bytes.Equal(list[0].Data, content) {
				t.Fatalf("%s: section %q of %d bytes is not the first of %d", name, want.Name, len(content), len(list))
			}
			list = list[1:]
		}
		if len(list) != 0 {
			t.Errorf("%s: %d sections more", name, len(list))
		}
	}
}

func FuzzSections(f *testing.F) {
	f.Add(parts(".linux", ".initrd"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := Sections(b)
		if err != nil {
			if !errors.Is(err, ErrImage) {
				t.Error(err)
			}
			return
		}
		seen := map[string]bool{}
		for _, s := range list {
			if seen[s.Name] || len(s.Name) > 8 || len(s.Data) > len(b) || s.Zeros < 0 {
				t.Errorf("section %q of %d bytes and %d zeros", s.Name, len(s.Data), s.Zeros)
			}
			seen[s.Name] = true
		}
		if _, err := Authenticode(sha256.New(), b); err != nil {
			t.Errorf("it has sections and no digest: %v", err)
		}
	})
}
