// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package gpt_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"cocoon/mkimage/format/gpt"
)

const (
	diskID = "11111111-2222-4333-8444-555555555555"
	espID  = "a1a2a3a4-b1b2-41c2-91d2-e1e2e3e4e5e6"
	rootID = "33333333-3333-4333-8333-333333333333"
)

func source(name, kind, id, content string) gpt.Source {
	return gpt.Source{
		Partition: gpt.Partition{Name: name, Type: uuid.MustParse(kind), ID: uuid.MustParse(id), Size: int64(len(content))},
		Content:   strings.NewReader(content),
	}
}

func parts() []gpt.Source {
	return []gpt.Source{source("ESP", gpt.TypeESP, espID, "esp"), source("root \u00e4\U0001f680", gpt.TypeRoot, rootID, strings.Repeat("r", gpt.MiB+1))}
}

// write writes a disk to a file that held something else before.
func write(t *testing.T, parts []gpt.Source, unit int64) *os.File {
	t.Helper()
	f := newFile(t)
	if _, err := f.Write(bytes.Repeat([]byte("old"), 4<<20)); err != nil {
		t.Fatal(err)
	}
	size, err := gpt.Write(f, uuid.MustParse(diskID), parts, unit)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != size {
		t.Fatalf("%d bytes are said to be %d, %v", st.Size(), size, err)
	}
	return f
}

func newFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func content(t *testing.T, f *os.File) []byte {
	t.Helper()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWhatIsWrittenCanBeRead(t *testing.T) {
	t.Parallel()
	b := content(t, write(t, parts(), gpt.MiB))
	got, err := gpt.Read(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	want := &gpt.Table{ID: uuid.MustParse(diskID), Partitions: []gpt.Partition{
		{Name: "ESP", Type: uuid.MustParse(gpt.TypeESP), ID: uuid.MustParse(espID), Offset: gpt.MiB, Size: gpt.MiB},
		{Name: "root \u00e4\U0001f680", Type: uuid.MustParse(gpt.TypeRoot), ID: uuid.MustParse(rootID), Offset: 2 * gpt.MiB, Size: 2 * gpt.MiB},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if len(b) != 5*gpt.MiB || string(bytes.TrimRight(b[gpt.MiB:2*gpt.MiB], "\x00")) != "esp" ||
		string(bytes.TrimRight(b[2*gpt.MiB:4*gpt.MiB], "\x00")) != strings.Repeat("r", gpt.MiB+1) {
		t.Errorf("the content is not in its place, of %d bytes", len(b))
	}
	if !bytes.Equal(b, content(t, write(t, parts(), gpt.MiB))) {
		t.Error("two runs differ")
	}
}

// sfdisk is the reference.
func TestTheReferenceFindsNoFault(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("sfdisk")
	if err != nil {
		t.Fatalf("the package fdisk is needed: %v", err)
	}
	f := write(t, parts(), gpt.MiB)
	out, err := exec.CommandContext(t.Context(), tool, "--json", f.Name()).Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Table struct {
			Label, ID  string
			FirstLBA   int
			LastLBA    int
			Partitions []struct {
				Start, Size      int
				Type, UUID, Name string
			}
		} `json:"partitiontable"`
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	p := got.Table.Partitions
	if got.Table.Label != "gpt" || !strings.EqualFold(got.Table.ID, diskID) || got.Table.FirstLBA != 34 || got.Table.LastLBA != 5*2048-34 || len(p) != 2 {
		t.Fatalf("%s", out)
	}
	if p[0].Start != 2048 || p[0].Size != 2048 || !strings.EqualFold(p[0].UUID, espID) || !strings.EqualFold(p[0].Type, gpt.TypeESP) || p[0].Name != "ESP" ||
		p[1].Start != 4096 || p[1].Size != 4096 || !strings.EqualFold(p[1].UUID, rootID) || p[1].Name != "root \u00e4\U0001f680" {
		t.Errorf("%s", out)
	}
	if out, err := exec.CommandContext(t.Context(), tool, "--verify", f.Name()).CombinedOutput(); err != nil || !strings.Contains(string(out), "No errors") {
		t.Errorf("%v: %s", err, out)
	}
}

// A cloud that asks for whole GiB gets a file that is large by name only.
func TestADiskIsOfWholeUnitsAndZerosTakeNoSpace(t *testing.T) {
	t.Parallel()
	p := parts()
	p = append(p, gpt.Source{
		Partition: gpt.Partition{Name: "zeros", Type: uuid.MustParse(gpt.TypeRootVerity), ID: uuid.MustParse("44444444-4444-4444-8444-444444444444"), Size: 64 << 20},
		Content:   io.MultiReader(bytes.NewReader(make([]byte, 64<<20-1)), strings.NewReader("x")),
	})
	f := write(t, p, 1<<30)
	st, err := f.Stat()
	if err != nil || st.Size() != 1<<30 {
		t.Fatalf("%d bytes, %v", st.Size(), err)
	}
	if s, ok := st.Sys().(*syscall.Stat_t); !ok || s.Blocks*512 > 4*gpt.MiB {
		t.Errorf("it takes %d bytes", s.Blocks*512)
	}
	last := make([]byte, 2)
	if _, err := f.ReadAt(last, 68<<20-2); err != nil || string(last) != "\x00x" {
		t.Errorf("the partition ends with %q, %v", last, err)
	}
	if table, err := gpt.Read(f, 1<<30); err != nil || len(table.Partitions) != 3 {
		t.Errorf("%+v, %v", table, err)
	}
}

func TestWhatMakesNoDiskIsRefused(t *testing.T) {
	t.Parallel()
	with := func(change func(*gpt.Source)) []gpt.Source {
		p := parts()
		change(&p[1])
		return p
	}
	var many []gpt.Source
	for i := range 129 {
		many = append(many, source("x", gpt.TypeRoot, gpt.Derive("test", []byte{byte(i)}).String(), "x"))
	}
	disk := uuid.MustParse(diskID)
	for name, tc := range map[string]struct {
		disk  uuid.UUID
		parts []gpt.Source
		unit  int64
	}{
		"no partition":      {disk, nil, gpt.MiB},
		"many partitions":   {disk, many, gpt.MiB},
		"a disk without ID": {uuid.Nil, parts(), gpt.MiB},
		"no unit":           {disk, parts(), 0},
		"a unit below zero": {disk, parts(), -gpt.MiB},
		"half a unit":       {disk, parts(), gpt.MiB / 2},
		"a huge unit":       {disk, parts(), 1 << 60},
		"nothing":           {disk, with(func(s *gpt.Source) { s.Size = 0 }), gpt.MiB},
		"less than nothing": {disk, with(func(s *gpt.Source) { s.Size = -1 }), gpt.MiB},
		"too much":          {disk, with(func(s *gpt.Source) { s.Size = 1<<63 - 1 }), gpt.MiB},
		"no type":           {disk, with(func(s *gpt.Source) { s.Type = uuid.Nil }), gpt.MiB},
		"no ID":             {disk, with(func(s *gpt.Source) { s.ID = uuid.Nil }), gpt.MiB},
		"the same ID":       {disk, with(func(s *gpt.Source) { s.ID = uuid.MustParse(espID) }), gpt.MiB},
		"a long name":       {disk, with(func(s *gpt.Source) { s.Name = strings.Repeat("\U0001f680", 18) + "x" }), gpt.MiB},
		"more content":      {disk, with(func(s *gpt.Source) { s.Size-- }), gpt.MiB},
	} {
		if size, err := gpt.Write(newFile(t), tc.disk, tc.parts, tc.unit); !errors.Is(err, gpt.ErrTable) || size != 0 {
			t.Errorf("%s: %d, %v", name, size, err)
		}
	}
	less := with(func(s *gpt.Source) { s.Size++ })
	if _, err := gpt.Write(newFile(t), disk, less, gpt.MiB); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("less content: %v", err)
	}
	broken := with(func(s *gpt.Source) { s.Content = iotest.TimeoutReader(s.Content) })
	if _, err := gpt.Write(newFile(t), disk, broken, gpt.MiB); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("broken content: %v", err)
	}
}

// full is a target that takes nothing from a certain place on.
type full struct{ from, size int64 }

var errFull = errors.New("full")

func (f full) Truncate(n int64) error {
	if n > f.size {
		return errFull
	}
	return nil
}

func (f full) WriteAt(b []byte, at int64) (int, error) {
	if at >= f.from {
		return 0, errFull
	}
	return len(b), nil
}

func TestAFullDiskIsAnError(t *testing.T) {
	t.Parallel()
	for name, w := range map[string]full{
		"no room": {1 << 40, 100}, "first table": {0, 1 << 40}, "content": {gpt.MiB, 1 << 40}, "second table": {4 * gpt.MiB, 1 << 40},
	} {
		if _, err := gpt.Write(w, uuid.MustParse(diskID), parts(), gpt.MiB); !errors.Is(err, errFull) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// seal makes the checksums of both tables right again.
func seal(b []byte) {
	for _, at := range []int{512, len(b) - 512} {
		h := b[at : at+92]
		entries := binary.LittleEndian.Uint64(h[72:]) * 512
		if entries < uint64(len(b)-128*128) {
			binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(b[entries:entries+128*128]))
		}
		clear(h[16:20])
		binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h))
	}
}

func TestTablesThatAreNotSoundAreRefused(t *testing.T) {
	t.Parallel()
	good := content(t, write(t, parts(), gpt.MiB))
	put64 := binary.LittleEndian.PutUint64
	// Both headers, and both copies of an entry.
	headers := func(change func(h []byte)) func([]byte) []byte {
		return func(b []byte) []byte {
			change(b[512:])
			change(b[len(b)-512:])
			seal(b)
			return b
		}
	}
	entries := func(change func(e []byte)) func([]byte) []byte {
		return func(b []byte) []byte {
			change(b[1024:])
			change(b[len(b)-33*512:])
			seal(b)
			return b
		}
	}
	for name, spoil := range map[string]func([]byte) []byte{
		"empty":                func([]byte) []byte { return nil },
		"one sector":           func(b []byte) []byte { return b[:512] },
		"entries cut":          func(b []byte) []byte { return b[:2048] },
		"second table cut":     func(b []byte) []byte { return b[:len(b)-512] },
		"no mark":              func(b []byte) []byte { b[511] = 0; return b },
		"not protective":       func(b []byte) []byte { b[450] = 0x83; return b },
		"signature":            func(b []byte) []byte { b[512]++; return b },
		"second signature":     func(b []byte) []byte { b[len(b)-512]++; return b },
		"header changed":       func(b []byte) []byte { b[512+60]++; return b },
		"second changed":       func(b []byte) []byte { b[len(b)-512+60]++; return b },
		"entry changed":        func(b []byte) []byte { b[1024+60]++; return b },
		"second entry changed": func(b []byte) []byte { b[len(b)-33*512+60]++; return b },
		"other disk in second": func(b []byte) []byte { b[len(b)-512+60]++; seal(b); return b },
		"other name in second": func(b []byte) []byte { b[len(b)-33*512+60]++; seal(b); return b },
		"revision":             headers(func(h []byte) { h[8]++ }),
		"header size":          headers(func(h []byte) { h[12]++ }),
		"reserved":             headers(func(h []byte) { h[20]++ }),
		"of another sector":    headers(func(h []byte) { h[24]++ }),
		"second outside":       headers(func(h []byte) { put64(h[32:], 1<<63) }),
		"second in the first":  headers(func(h []byte) { put64(h[32:], 1) }),
		"second in the MBR":    headers(func(h []byte) { put64(h[32:], 0) }),
		"nothing usable":       headers(func(h []byte) { put64(h[40:], 1<<40) }),
		"usable outside":       headers(func(h []byte) { put64(h[48:], 1<<40) }),
		"entries in header":    headers(func(h []byte) { put64(h[72:], 1) }),
		"entries outside":      headers(func(h []byte) { put64(h[72:], 1<<63) }),
		"usable from table":    headers(func(h []byte) { put64(h[40:], 33) }),
		"usable to table":      headers(func(h []byte) { put64(h[48:], uint64(len(good)/512-33)) }),
		"second of no first":   func(b []byte) []byte { put64(b[len(b)-512+32:], 2); seal(b); return b },
		"entry count":          headers(func(h []byte) { h[80]++ }),
		"entry size":           headers(func(h []byte) { h[85]++ }),
		"partition too early":  entries(func(e []byte) { put64(e[32:], 33) }),
		"partition too late":   entries(func(e []byte) { put64(e[40:], uint64(len(good)/512-33)) }),
		"partition far away":   entries(func(e []byte) { put64(e[40:], 1<<63) }),
		"partition reversed":   entries(func(e []byte) { put64(e[40:], 2047) }),
		"partitions overlap":   entries(func(e []byte) { put64(e[40:], 4096) }),
	} {
		b := spoil(bytes.Clone(good))
		if table, err := gpt.Read(bytes.NewReader(b), int64(len(b))); err == nil || table != nil {
			t.Errorf("%s: %+v", name, table)
		} else if len(b) == len(good) && !errors.Is(err, gpt.ErrTable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := gpt.Read(bytes.NewReader(good), -1); !errors.Is(err, gpt.ErrTable) {
		t.Errorf("a size below zero: %v", err)
	}
	seal(good)
	if _, err := gpt.Read(bytes.NewReader(good), int64(len(good))); err != nil {
		t.Errorf("the untouched table, sealed again: %v", err)
	}
}

func TestDerivedIdentifiersFollowFromPurposeAndContent(t *testing.T) {
	t.Parallel()
	// SHA256("cocoon:esp" 00 "x"), by sha256sum: version and variant replaced.
	const want = "90a890fc-80ca-8937-bb0b-75b9fda9dea2"
	if got := gpt.Derive("esp", []byte("x")); got.String() != want || got.Version() != 8 || got.Variant() != uuid.RFC4122 {
		t.Errorf("%s, version %d", got, got.Version())
	}
	if gpt.Derive("disk", []byte("x")) == gpt.Derive("esp", []byte("x")) || gpt.Derive("esp", []byte("y")) == gpt.Derive("esp", []byte("x")) {
		t.Error("purpose or content makes no difference")
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte{}, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, first, entries, second []byte) {
		// A disk of 69 sectors: what the fuzzer gives is put into its tables,
		// whose checksums are made right.
		b := make([]byte, 69*512)
		b[450], b[510], b[511] = 0xee, 0x55, 0xaa
		copy(b[512:1024], first)
		copy(b[1024:], entries[:min(len(entries), 128*128)])
		copy(b[36*512:], entries[:min(len(entries), 128*128)])
		copy(b[68*512:], second)
		seal(b)
		table, err := gpt.Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		var end int64
		for _, p := range table.Partitions {
			if p.Offset < 34*512 || p.Size < 512 || p.Offset > int64(len(b))-p.Size {
				t.Errorf("%+v", p)
			}
			end += p.Size
		}
		if end > int64(len(b)) {
			t.Errorf("partitions of %d bytes on a disk of %d", end, len(b))
		}
	})
}
