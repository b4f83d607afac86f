// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

const gib = 1 << 30

// kernel has a header of boot protocol 2.15 and nothing else.
func kernel() []byte {
	k := bytes.Repeat([]byte{0x11}, 0x400)
	copy(k[headerMark:], "HdrS")
	binary.LittleEndian.PutUint16(k[protocol:], 0x20f)
	binary.LittleEndian.PutUint16(k[xloadFlags:], 0x7f)
	return k
}

func old() Boot {
	return Boot{Kernel: kernel(), Initrd: true, InitrdSize: 777460, Cmdline: "console=ttyS0 quiet", Memory: 2 * gib, EDK2: 202211, QEMU: 702}
}

// The fields are written out as a debugger shows them.
func TestQEMUWritesItsChoicesIntoTheHeader(t *testing.T) {
	t.Parallel()
	got, err := old().Image()
	if err != nil {
		t.Fatal(err)
	}
	want := kernel()
	for at, b := range map[int]string{0x210: "\xb0", 0x211: "\x91", 0x224: "\x00\xfe", 0x228: "\x00\x00\x02\x00", 0x218: "\x00\xa0\xf1\x7f", 0x21c: "\xf4\xdc\x0b\x00"} {
		copy(want[at:], b)
	}
	if !bytes.Equal(got, want) {
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("byte %#x is %#x, want %#x", i, got[i], want[i])
			}
		}
	}
	if b := old(); !bytes.Equal(b.Kernel, kernel()) {
		t.Error("the caller's kernel was changed")
	}
}

func TestTheInitrdLiesAsHighAsItMay(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		memory, size uint64
		change       func(k []byte)
		want         uint32
	}{
		"512 MiB":           {gib / 2, 1, nil, 0x1ffd7000},
		"more than fits":    {8 * gib, 1, nil, 0x7ffd7000},
		"just not too much": {manyMemory - 1, 1, nil, 0xaffd7000},
		"just too much":     {manyMemory, 1, nil, 0x7ffd7000},
		"below 2 GiB only":  {8 * gib, 4096, func(k []byte) { k[xloadFlags] = 0x7d; copy(k[initrdMax:], "\xff\xff\xff\x3f") }, 0x3fffe000},
		"older protocol":    {8 * gib, 4096, func(k []byte) { k[protocol] = 0x0b; copy(k[initrdMax:], "\xff\xff\xff\x3f") }, 0x3fffe000},
		"oldest protocol":   {8 * gib, 4096, func(k []byte) { k[protocol] = 0x02 }, 0x37ffe000},
	} {
		b := old()
		b.Memory, b.InitrdSize = tc.memory, tc.size
		if tc.change != nil {
			tc.change(b.Kernel)
		}
		k, err := b.Image()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := binary.LittleEndian.Uint32(k[initrdAddress:]); got != tc.want {
			t.Errorf("%s: at %#x, want %#x", name, got, tc.want)
		}
	}
}

func TestWithoutAnInitrdItsFieldsStay(t *testing.T) {
	t.Parallel()
	b := old()
	b.Initrd, b.InitrdSize = false, 0
	k, err := b.Image()
	if err != nil || !bytes.Equal(k[initrdAddress:initrdLength+4], kernel()[initrdAddress:initrdLength+4]) {
		t.Errorf("%x, %v", k[initrdAddress:initrdLength+4], err)
	}
}

func TestTheVideoModeIsOfTheCommandLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint16{
		"": 0x1111, "vga=normal": 0xffff, "quiet vga=ext x": 0xfffe, "vga=ask": 0xfffd, "vga=0x317": 0x317, "vga=791 vga=1": 791, "vga=0x10317": 0x317, "vga=010": 8, "nvga=7": 7,
	} {
		b := old()
		b.Cmdline = text
		k, err := b.Image()
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := binary.LittleEndian.Uint16(k[videoMode:]); got != want {
			t.Errorf("%q: %#x, want %#x", text, got, want)
		}
	}
	for _, text := range []string{"vga=", "vga=x", "vga= 7", "vga=7x", "vga=-1", "vga=0b1", "vga=1_0", "vga=99999999999", "vga=08"} {
		b := old()
		b.Cmdline = text
		if _, err := b.Image(); !errors.Is(err, ErrConfig) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestReleasesDecideWhoMeasuresTheFile(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		qemu, edk2   int
		confidential bool
		patched      bool
	}{
		{702, 202211, true, true}, {902, 202511, true, true}, {1000, 202411, true, true}, {1001, 202411, true, true}, {1000, 202502, true, false},
		{1002, 202411, true, false}, {1100, 202511, true, false}, {1100, 202411, false, true}, {1100, 202502, false, false}, {902, 202502, false, true},
	} {
		b := old()
		b.QEMU, b.EDK2, b.Confidential = tc.qemu, tc.edk2, tc.confidential
		k, err := b.Image()
		if err != nil || bytes.Equal(k, b.Kernel) == tc.patched {
			t.Errorf("%+v: patched is %t, %v", tc, !bytes.Equal(k, b.Kernel), err)
		}
	}
}

func TestLoadOptionsNameTheInitrd(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		edk2   int
		initrd bool
		want   string
	}{{202505, true, "a b initrd=initrd"}, {202508, true, "initrd=initrd a b"}, {202505, false, "a b"}, {202508, false, "a b"}} {
		text, raw := Boot{Cmdline: "a b", EDK2: tc.edk2, Initrd: tc.initrd}.LoadOptions()
		if text != tc.want || len(raw) != 2*len(tc.want)+2 || raw[0] != tc.want[0] || raw[1] != 0 {
			t.Errorf("%+v: %q, %x", tc, text, raw)
		}
	}
}

func TestLaunchesThatCannotBePredictedAreRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*Boot)
		want   error
	}{
		"edk2 as a year":      {func(b *Boot) { b.EDK2 = 2025 }, ErrConfig},
		"month 13":            {func(b *Boot) { b.EDK2 = 202513 }, ErrConfig},
		"month 0":             {func(b *Boot) { b.EDK2 = 202500 }, ErrConfig},
		"old edk2":            {func(b *Boot) { b.EDK2 = 202208 }, ErrConfig},
		"QEMU as a number":    {func(b *Boot) { b.QEMU = 11 }, ErrConfig},
		"QEMU of the future":  {func(b *Boot) { b.QEMU = 10000 }, ErrConfig},
		"no memory":           {func(b *Boot) { b.Memory = 0 }, ErrPatched},
		"no size":             {func(b *Boot) { b.InitrdSize = 0 }, ErrPatched},
		"little memory":       {func(b *Boot) { b.Memory = acpiData }, ErrConfig},
		"large initrd":        {func(b *Boot) { b.InitrdSize = 2 * gib }, ErrConfig},
		"endless initrd":      {func(b *Boot) { b.InitrdSize = 1 << 63 }, ErrConfig},
		"no kernel":           {func(b *Boot) { b.Kernel = nil }, ErrConfig},
		"cut kernel":          {func(b *Boot) { b.Kernel = b.Kernel[:headerEnd-1] }, ErrConfig},
		"no Linux":            {func(b *Boot) { b.Kernel[headerMark]++ }, ErrConfig},
		"old protocol":        {func(b *Boot) { b.Kernel[protocol] = 1 }, ErrConfig},
		"kernel of low place": {func(b *Boot) { b.Kernel[loadFlags] = 0 }, ErrConfig},
	} {
		b := old()
		tc.change(&b)
		if k, err := b.Image(); !errors.Is(err, tc.want) {
			t.Errorf("%s: %d bytes, %v", name, len(k), err)
		}
	}
}

func FuzzImage(f *testing.F) {
	f.Add(kernel(), "vga=7", uint64(777460), uint64(2*gib))
	f.Add([]byte("MZ"), "", uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, k []byte, line string, size, memory uint64) {
		b := Boot{Kernel: k, Cmdline: line, Initrd: true, InitrdSize: size, Memory: memory, EDK2: 202211, QEMU: 702}
		got, err := b.Image()
		if err != nil {
			if !errors.Is(err, ErrConfig) && !errors.Is(err, ErrPatched) {
				t.Error(err)
			}
			return
		}
		at := uint64(binary.LittleEndian.Uint32(got[initrdAddress:]))
		if len(got) != len(k) || at%pageSize != 0 || at+size > memory {
			t.Errorf("%d bytes of kernel, initrd of %d at %#x of %#x", len(got), size, at, memory)
		}
	})
}
