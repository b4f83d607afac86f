// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cpio_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"cocoon/mkimage/format/cpio"
	"cocoon/rootfs/recipe"
)

// record is an entry as any program could write it.
type record struct {
	mode, links, size, name int
	text, data              string
}

// file is a record whose numbers are right.
func file(name, data string) record {
	return record{mode: recipe.TypeFile | 0o644, links: 1, size: len(data), name: len(name) + 1, text: name + "\x00", data: data}
}

func (r record) bytes() string {
	s := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 1, uint32(r.mode), 0, 0, r.links, 0, uint32(r.size), 0, 0, 0, 0, uint32(r.name), 0)
	pad := func(s string) string { return s + strings.Repeat("\x00", -len(s)&3) }
	return pad(pad(s+r.text) + r.data)
}

// end is what the last record is.
func end() string { return file("TRAILER!!!", "").bytes() }

func TestNamesAreRelativeToTheRoot(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"/init": "init", "./init": "init", "a//b": "a/b", ".": ".", "//": "."} {
		got, err := cpio.Read([]byte(file(name, "x").bytes() + end()))
		if err != nil || len(got) != 1 || got[0].Path != want || string(got[0].Data) != "x" {
			t.Errorf("%q: %+v, %v", name, got, err)
		}
	}
}

func TestZerosBehindTheTrailerAreNoContent(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 511, 4096} {
		if got, err := cpio.Read([]byte(file("a", "").bytes() + end() + strings.Repeat("\x00", n))); err != nil || len(got) != 1 {
			t.Errorf("%d zeros: %d entries, %v", n, len(got), err)
		}
	}
}

func TestArchivesThatAreNotSoundAreRefused(t *testing.T) {
	t.Parallel()
	change := func(f func(*record)) string {
		r := file("init", "data")
		f(&r)
		return r.bytes() + end()
	}
	good := file("init", "data").bytes()
	for name, b := range map[string]string{
		"empty":               "",
		"no trailer":          good,
		"cut in a header":     good + end()[:109],
		"cut in a name":       good[:112],
		"cut in the content":  good[:len(good)-1],
		"other magic":         "070702" + good[6:] + end(),
		"no number":           good[:6] + "0000000g" + good[14:] + end(),
		"signed number":       good[:6] + "-0000001" + good[14:] + end(),
		"zeros in front":      strings.Repeat("\x00", 512) + good + end(),
		"no name":             change(func(r *record) { r.name, r.text = 0, "" }),
		"name of a zero byte": change(func(r *record) { r.name, r.text = 1, "\x00" }),
		"long name":           file(strings.Repeat("a", 4096), "").bytes() + end(),
		"endless name":        change(func(r *record) { r.name = -1 }),
		"name without end":    change(func(r *record) { r.text = "initX" }),
		"zero in the name":    change(func(r *record) { r.text = "in\x00t\x00" }),
		"content outside":     change(func(r *record) { r.size = 1 << 20 }),
		"endless content":     change(func(r *record) { r.size = -1 }),
		"largest content":     change(func(r *record) { r.size = 1<<31 - 1 }),
		"two names":           change(func(r *record) { r.links = 2 }),
		"a second archive":    good + end() + good + end(),
		"bytes at the end":    good + end() + "x",
	} {
		if got, err := cpio.Read([]byte(b)); !errors.Is(err, cpio.ErrArchive) || got != nil {
			t.Errorf("%s: %d entries, %v", name, len(got), err)
		}
	}
}

func TestTheNumberOfEntriesIsBounded(t *testing.T) {
	t.Parallel()
	const limit = 1 << 17
	for more, want := range []error{nil, cpio.ErrTooMany} {
		b := []byte(strings.Repeat(file("a", "").bytes(), limit+more) + end())
		if got, err := cpio.Read(b); !errors.Is(err, want) || err == nil && len(got) != limit {
			t.Errorf("%d more: %d entries, %v", more, len(got), err)
		}
	}
}

func FuzzRead(f *testing.F) {
	var whole bytes.Buffer
	if err := cpio.Write(&whole, tree()); err != nil {
		f.Fatal(err)
	}
	f.Add(whole.Bytes())
	f.Add([]byte(file("/a", "x").bytes() + end()))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := cpio.Read(b)
		if err != nil {
			if !errors.Is(err, cpio.ErrArchive) && !errors.Is(err, cpio.ErrTooMany) {
				t.Error(err)
			}
			return
		}
		size := 0
		for _, e := range list {
			size += len(e.Data) + len(e.Path)
		}
		if size > len(b) {
			t.Errorf("%d bytes in an archive of %d", size, len(b))
		}
		// What makes a tree is the same tree after another round.
		var again bytes.Buffer
		if cpio.Write(&again, list) != nil {
			return
		}
		two, err := cpio.Read(again.Bytes())
		if err != nil || len(two) < len(list) {
			t.Errorf("%d entries became %d, %v", len(list), len(two), err)
		}
	})
}
