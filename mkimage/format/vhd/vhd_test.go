// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package vhd_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"cocoon/internal/sharedtest"
	"cocoon/mkimage/format/vhd"
)

const (
	id = "11111111-2222-3333-4444-555555555555"
	// start and end are a footer's parts that are not zero, for 5 MiB and the
	// year 2000, up to the checksum.
	start = "conectix\x00\x00\x00\x02\x00\x01\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00qem2\x00\x05\x00\x03Wi2k" +
		"\x00\x00\x00\x00\x00\x50\x00\x00\x00\x00\x00\x00\x00\x50\x00\x00\xff\xff\x10\xff\x00\x00\x00\x02\xff\xff\xea\xaa"
	end = "\x11\x11\x11\x11\x22\x22\x33\x33\x44\x44\x55\x55\x55\x55\x55\x55"
)

func footer(t *testing.T, size, epoch int64) []byte {
	t.Helper()
	b, err := vhd.Footer(size, uuid.MustParse(id), epoch)
	if err != nil || len(b) != vhd.FooterSize {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	return b
}

func TestAFooterDependsOnItsInputsAlone(t *testing.T) {
	t.Parallel()
	want := make([]byte, 512)
	copy(want, start+end)
	for _, epoch := range []int64{-1, 0, 946684799, 946684800} {
		if got := footer(t, 5<<20, epoch); !bytes.Equal(got, want) {
			t.Errorf("epoch %d: %x", epoch, got)
		}
	}
	if got := footer(t, 5<<20, 946684801); got[27] != 1 || got[67] != want[67]-1 {
		t.Errorf("a second later: time %x, checksum %x", got[24:28], got[64:68])
	}
}

func TestTheRecordedFooterComesOut(t *testing.T) {
	t.Parallel()
	var v struct {
		Deterministic struct {
			Bytes  int64  `json:"disk_bytes"`
			UUID   string `json:"uuid"`
			SHA256 string `json:"footer_sha256"`
		} `json:"deterministic"`
	}
	if err := json.Unmarshal(sharedtest.Read(t, "measure/vhd/vhd.json"), &v); err != nil {
		t.Fatal(err)
	}
	d := v.Deterministic
	b, err := vhd.Footer(d.Bytes, uuid.MustParse(d.UUID), 0)
	if got := fmt.Sprintf("%x", sha256.Sum256(b)); err != nil || got != d.SHA256 {
		t.Errorf("%s, not %s (%v)", got, d.SHA256, err)
	}
}

// qemu-img is the reference: it reads the file, and writes the same footer but
// for time and identifier.
func TestTheReferenceReadsTheDisk(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Fatalf("the package qemu-utils is needed: %v", err)
	}
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	raw := bytes.Repeat([]byte("content!"), 3<<17)
	write := func(name string, b []byte) {
		if err := os.WriteFile(file(name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) {
		if out, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(file(name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	write("ours.vhd", append(bytes.Clone(raw), footer(t, int64(len(raw)), 1<<30)...))
	run("convert", "-f", "vpc", "-O", "raw", file("ours.vhd"), file("back"))
	if !bytes.Equal(read("back"), raw) {
		t.Error("the disk that is read is another")
	}
	write("raw", raw)
	run("convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed,force_size", file("raw"), file("theirs.vhd"))
	ours, theirs := read("ours.vhd"), read("theirs.vhd")
	if len(ours) != len(theirs) {
		t.Fatalf("%d bytes, theirs has %d", len(ours), len(theirs))
	}
	for _, b := range [][]byte{ours, theirs} {
		f := b[len(raw):]
		clear(f[24:28])
		clear(f[64:84])
		copy(f[32:], "\x00\x00\x00\x00") // their release
	}
	if !bytes.Equal(ours, theirs) {
		t.Errorf("%x\nis not theirs\n%x", ours[len(raw):], theirs[len(raw):])
	}
}

func TestDisksThatAzureRefusesAreRefused(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, -1, -1 << 20, 1, 512, 1<<20 - 512, 1<<20 + 512, 2040<<30 + 1<<20, math.MaxInt64} {
		if b, err := vhd.Footer(size, uuid.Nil, 0); !errors.Is(err, vhd.ErrSize) || b != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	for _, epoch := range []int64{946684800 + 1<<32, math.MaxInt64} {
		if b, err := vhd.Footer(1<<20, uuid.Nil, epoch); err == nil || b != nil {
			t.Errorf("epoch %d is taken", epoch)
		}
	}
	if _, err := vhd.Footer(2040<<30, uuid.Nil, 946684799+1<<32); err != nil {
		t.Errorf("the largest: %v", err)
	}
}
