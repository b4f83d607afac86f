// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package mbr_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"cocoon/mkimage/format/mbr"
)

const mib = 1 << 20

func disk(t *testing.T, parts ...string) []byte {
	t.Helper()
	list := make([]mbr.Content, len(parts))
	for i, p := range parts {
		list[i] = strings.NewReader(p)
	}
	var b bytes.Buffer
	if err := mbr.Write(&b, list); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestPartitionsBeginAtWholeMiB(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("d", mib+1)
	b := disk(t, big, "tree")
	parts, err := mbr.Read(bytes.NewReader(b), int64(len(b)))
	if want := []mbr.Part{{mib, 2 * mib}, {3 * mib, mib}}; err != nil || !reflect.DeepEqual(parts, want) || len(b) != 4*mib {
		t.Fatalf("%+v, %v, %d bytes", parts, err, len(b))
	}
	if string(b[mib:2*mib+1]) != big || string(b[3*mib:3*mib+4]) != "tree" || len(bytes.Trim(b[3*mib+4:], "\x00")) != 0 {
		t.Error("the content is elsewhere")
	}
}

// sfdisk is the reference.
func TestTheReferenceFindsThePartitions(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("sfdisk")
	if err != nil {
		t.Fatalf("the package fdisk is needed: %v", err)
	}
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, disk(t, "data", "tree"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), tool, "--json", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Table struct {
			Label      string
			Partitions []struct{ Start, Size int }
		} `json:"partitiontable"`
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if p := got.Table.Partitions; got.Table.Label != "dos" || len(p) != 2 || p[0].Start != 2048 || p[1].Start != 4096 || p[1].Size != 2048 {
		t.Errorf("%s", out)
	}
}

func TestWhatDoesNotFitIsRefused(t *testing.T) {
	t.Parallel()
	short := shortReader{strings.NewReader("x"), 2}
	for name, parts := range map[string][]mbr.Content{
		"none": nil, "five": {short, short, short, short, short}, "empty": {strings.NewReader("")}, "too large": {shortReader{nil, 1 << 42}},
	} {
		if err := mbr.Write(&bytes.Buffer{}, parts); !errors.Is(err, mbr.ErrTable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := mbr.Write(&bytes.Buffer{}, []mbr.Content{short}); err == nil {
		t.Error("content that ends early is taken")
	}
}

type shortReader struct {
	*strings.Reader
	size int64
}

func (s shortReader) Size() int64 { return s.size }

func TestTablesThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	good := disk(t, "data")
	for name, spoil := range map[string]func([]byte) []byte{
		"short":       func(b []byte) []byte { return b[:511] },
		"empty":       func(b []byte) []byte { b[446+4] = 0; return b },
		"mark":        func(b []byte) []byte { b[510] = 0; return b },
		"cut":         func(b []byte) []byte { return b[:mib] },
		"at zero":     func(b []byte) []byte { clear(b[446+8 : 446+12]); return b },
		"of no size":  func(b []byte) []byte { clear(b[446+12 : 446+16]); return b },
		"beyond":      func(b []byte) []byte { b[446+15] = 0xff; return b },
		"far outside": func(b []byte) []byte { b[446+11] = 0xff; return b },
	} {
		b := spoil(bytes.Clone(good))
		if p, err := mbr.Read(bytes.NewReader(b), int64(len(b))); err == nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(make([]byte, 512), int64(512))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		parts, err := mbr.Read(bytes.NewReader(b), size)
		if err != nil {
			return
		}
		for _, p := range parts {
			if p.Offset < 512 || p.Size < 512 || p.Offset+p.Size > size {
				t.Errorf("%+v on a disk of %d bytes", p, size)
			}
		}
	})
}
