// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package pe

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"testing"

	"cocoon/internal/sharedtest"
)

func TestTheVectorsOfFirmwareHold(t *testing.T) {
	t.Parallel()
	var file struct {
		Vectors []struct {
			File         string
			Authenticode map[string]string
		}
	}
	if err := json.Unmarshal(sharedtest.Read(t, "measure/pcr/pe/authenticode.json"), &file); err != nil {
		t.Fatal(err)
	}
	for _, v := range file.Vectors {
		data := sharedtest.Read(t, "measure/pcr/pe/"+v.File)
		for name, h := range map[string]hash.Hash{"sha1": sha1.New(), "sha256": sha256.New(), "sha384": sha512.New384()} { //nolint:gosec // firmware still has banks of SHA-1
			if d, err := Authenticode(h, data); err != nil || hex.EncodeToString(d) != v.Authenticode[name] {
				t.Errorf("%s of %s: %x, want %s (%v)", name, v.File, d, v.Authenticode[name], err)
			}
		}
	}
	if len(file.Vectors) < 7 {
		t.Errorf("only %d vectors", len(file.Vectors))
	}
}

// program makes one with two sections, the second of which comes first in the
// file, four bytes behind them and a signature of eight.
func program() []byte {
	b := make([]byte, 0x400+0x200+0x200+4+8)
	copy(b, "MZ")
	binary.LittleEndian.PutUint32(b[0x3c:], 0x80)
	copy(b[0x80:], "PE\x00\x00")
	put16, put32 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32
	put16(b[0x86:], 2)
	put16(b[0x94:], 240)
	opt := 0x98
	put16(b[opt:], pe32plus)
	put32(b[opt+60:], 0x400)
	put32(b[opt+64:], 0x12345678)
	put32(b[opt+108:], 16)
	put32(b[opt+144:], uint32(len(b)-8))
	put32(b[opt+148:], 8)
	for i, at := range []uint32{0x600, 0x400} {
		s := b[opt+240+40*i:]
		put32(s[16:], 0x200)
		put32(s[20:], at)
	}
	for i := 0x400; i < len(b); i++ {
		b[i] = byte(i >> 3)
	}
	return b
}

func digest(t *testing.T, b []byte) string {
	t.Helper()
	d, err := Authenticode(sha256.New(), b)
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(d)
}

// The sum is over the ranges written out.
func TestEachKindOfHashIsOverTheSameRanges(t *testing.T) {
	t.Parallel()
	b := program()
	for name, h := range map[string]func() hash.Hash{"sha1": sha1.New, "sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New} {
		want, used := h(), h()
		for _, r := range [][2]int{{0, 0x98 + 64}, {0x98 + 68, 0x98 + 144}, {0x98 + 152, 0x804}} {
			want.Write(b[r[0]:r[1]])
		}
		used.Write([]byte("something before"))
		if d, err := Authenticode(used, b); err != nil || !bytes.Equal(d, want.Sum(nil)) {
			t.Errorf("%s: %x, want %x (%v)", name, d, want.Sum(nil), err)
		}
	}
}

// The sum is over the ranges written out.
func TestChecksumAndSignatureDoNotCount(t *testing.T) {
	t.Parallel()
	b := program()
	h := sha256.New()
	for _, r := range [][2]int{{0, 0x98 + 64}, {0x98 + 68, 0x98 + 144}, {0x98 + 152, 0x400}, {0x400, 0x600}, {0x600, 0x800}, {0x800, 0x804}} {
		h.Write(b[r[0]:r[1]])
	}
	want := hex.EncodeToString(h.Sum(nil))
	if got := digest(t, b); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for name, at := range map[string]int{"checksum": 0x98 + 64, "place of the signature": 0x98 + 144, "signature": len(b) - 1} {
		c := bytes.Clone(b)
		c[at]++
		if got := digest(t, c); got != want {
			t.Errorf("%s counts", name)
		}
	}
	for name, at := range map[string]int{"DOS header": 2, "headers": 0x3ff, "first section": 0x600, "second section": 0x5ff, "what follows": 0x803} {
		c := bytes.Clone(b)
		c[at]++
		if got := digest(t, c); got == want {
			t.Errorf("%s does not count", name)
		}
	}
}

func TestTextIsWideWithAZero(t *testing.T) {
	t.Parallel()
	if got := hex.EncodeToString(LoadOptions("aé")); got != "6100e9000000" {
		t.Errorf("%s", got)
	}
}

func TestWhatIsNoProgramIsRefused(t *testing.T) {
	t.Parallel()
	put16, put32 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32
	for name, spoil := range map[string]func([]byte) []byte{
		"empty": func([]byte) []byte { return nil }, "no MZ": func(b []byte) []byte { b[0] = 0; return b },
		"PE outside": func(b []byte) []byte { put32(b[0x3c:], 0xffffffff); return b }, "no PE": func(b []byte) []byte { b[0x80] = 0; return b },
		"many sections": func(b []byte) []byte { put16(b[0x86:], 0xffff); return b }, "no optional header": func(b []byte) []byte { put16(b[0x94:], 0); return b },
		"short optional header": func(b []byte) []byte { put16(b[0x94:], 111); return b }, "other kind": func(b []byte) []byte { put16(b[0x98:], 0x107); return b },
		"headers too small": func(b []byte) []byte { put32(b[0x98+60:], 0x100); return b }, "headers outside": func(b []byte) []byte { put32(b[0x98+60:], 0xffffffff); return b },
		"signature too large": func(b []byte) []byte { put32(b[0x98+148:], 0xffffffff); return b }, "section outside": func(b []byte) []byte { put32(b[0x98+240+20:], 0xfffffff0); return b },
		"section too large": func(b []byte) []byte { put32(b[0x98+240+16:], 0xffffffff); return b }, "cut": func(b []byte) []byte { return b[:0x500] },
	} {
		if d, err := Authenticode(sha256.New(), spoil(program())); !errors.Is(err, ErrImage) {
			t.Errorf("%s: %x, %v", name, d, err)
		}
	}
}

func FuzzAuthenticode(f *testing.F) {
	f.Add(program())
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := Authenticode(sha256.New(), b); (err == nil) != (len(d) == sha256.Size) || err != nil && !errors.Is(err, ErrImage) {
			t.Errorf("%x, %v", d, err)
		}
	})
}
