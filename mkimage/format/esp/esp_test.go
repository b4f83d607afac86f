// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package esp_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoon/mkimage/format/esp"
)

const (
	mib     = 1 << 20
	serial  = 0x1234abcd
	program = "EFI/BOOT/BOOTX64.EFI"
)

func content(n int) []byte { return bytes.Repeat([]byte("content"), n/7+1)[:n] }

func volume(t *testing.T, serial uint32, files ...esp.File) []byte {
	t.Helper()
	r, size, err := esp.New(serial, files)
	if err != nil || size%mib != 0 {
		t.Fatalf("%d bytes, %v", size, err)
	}
	b := make([]byte, size+1)
	if n, err := io.ReadFull(r, b); int64(n) != size || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("%d bytes are said to be %d, %v", n, size, err)
	}
	return b[:size]
}

func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	// They lie where only root looks.
	for _, file := range []string{name, filepath.Join("/usr/sbin", name), filepath.Join("/sbin", name)} {
		if p, err := exec.LookPath(file); err == nil {
			return p
		}
	}
	t.Fatalf("the package %s is needed for %s", pkg, name)
	return ""
}

func many() []esp.File {
	files := []esp.File{
		{Path: program, Data: content(300_001)}, {Path: "EMPTY", Data: nil}, {Path: "A_-1.B"}, {Path: "EFI/BOOT.X", Data: content(512)},
		{Path: "EFI/COCOON/DEEP/ER/FILE.TXT", Data: content(513)},
	}
	for i := range 40 { // a directory of three clusters
		files = append(files, esp.File{Path: fmt.Sprintf("MANY/FILE%d.BIN", i), Data: content(i * 100)})
	}
	return files
}

// fsck.vfat and mtools are the reference.
func TestTheReferenceFindsTheFilesAndNoFault(t *testing.T) {
	t.Parallel()
	fsck, cat := tool(t, "fsck.vfat", "dosfstools"), tool(t, "mtype", "mtools")
	for name, tc := range map[string]struct {
		files []esp.File
		size  int // in MiB
	}{
		"one byte":    {[]esp.File{{Path: program, Data: []byte("x")}}, 33},
		"large":       {[]esp.File{{Path: program, Data: content(40*mib + 3)}}, 41},
		"filled":      {[]esp.File{{Path: program, Data: content((65525 + 16 - 3) * 512)}}, 33},
		"one cluster": {[]esp.File{{Path: program, Data: content((65525 + 16) * 512)}}, 33},
		"many":        {many(), 33},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := volume(t, serial, tc.files...)
			if len(b) != tc.size*mib {
				t.Errorf("%d bytes, not %d MiB", len(b), tc.size)
			}
			file := filepath.Join(t.TempDir(), "esp")
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.CommandContext(t.Context(), fsck, "-n", "-v", "-V", file).CombinedOutput()
			for _, s := range []string{"Warning", "wrong", "should be", "differences", "Label"} {
				if err != nil || strings.Contains(string(out), s) {
					t.Fatalf("%v: %s", err, out)
				}
			}
			if !strings.Contains(string(out), "32 bit entries") {
				t.Errorf("it is no FAT32: %s", out)
			}
			for _, f := range tc.files {
				got, err := exec.CommandContext(t.Context(), cat, "-i", file, "::/"+f.Path).Output()
				if err != nil || !bytes.Equal(got, f.Data) {
					t.Errorf("%s has %d bytes, not %d, %v", f.Path, len(got), len(f.Data), err)
				}
			}
		})
	}
}

func TestTheBytesDependOnFilesAndSerialAlone(t *testing.T) {
	t.Parallel()
	a, files := volume(t, serial, many()...), many()
	slices.Reverse(files)
	if !bytes.Equal(a, volume(t, serial, files...)) {
		t.Error("another order of files gives other bytes")
	}
	const want = "3dca0ab0dcaf8f9f24cd545cef105643c2964c8658275b24486d17aaf1720f0e"
	if got := fmt.Sprintf("%x", sha256.Sum256(a)); got != want {
		t.Errorf("digest %s, not %s", got, want)
	}
	b := volume(t, serial+1, many()...)
	for _, boot := range [][]byte{b, b[6*512:]} {
		if binary.LittleEndian.Uint32(boot[67:]) != serial+1 {
			t.Error("the serial number is not there")
		}
		binary.LittleEndian.PutUint32(boot[67:], serial)
	}
	if !bytes.Equal(a, b) {
		t.Error("the serial number changes more than itself")
	}
}

func TestFilesThatFirmwareWouldNotFindAreRefused(t *testing.T) {
	t.Parallel()
	var thousand []esp.File
	for i := range 1001 {
		thousand = append(thousand, esp.File{Path: fmt.Sprintf("F%d", i)})
	}
	big := make([]byte, 1<<29)
	cases := map[string][]esp.File{
		"none": nil, "too many": thousand, "twice": {{Path: "A"}, {Path: "A"}}, "below a file": {{Path: "A"}, {Path: "A/B"}},
		"a file that is a directory": {{Path: "A/B"}, {Path: "A"}}, "too large": {{Path: "A", Data: big}, {Path: "B", Data: big}, {Path: "C", Data: big}, {Path: "D", Data: big}, {Path: "E", Data: []byte("x")}},
	}
	for _, p := range []string{
		"", ".", "/A", "A/", "A//B", "../A", "A/../B", "a", "A/b/C", "LONGNAME9", "A.LONG", "A.B.C", ".A", "A.", "A B", "\u00c4", "A\x00", "A\n", "A/LONGNAME9/B",
	} {
		cases[fmt.Sprintf("path %q", p)] = []esp.File{{Path: p}}
	}
	for name, files := range cases {
		if r, size, err := esp.New(0, files); !errors.Is(err, esp.ErrFile) || r != nil || size != 0 {
			t.Errorf("%s: %d bytes, %v", name, size, err)
		}
	}
}
