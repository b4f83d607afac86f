// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package erofs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	lib "github.com/erofs/go-erofs"

	"cocoon/internal/bounded"
	"cocoon/mkimage/format/erofs"
	"cocoon/rootfs/recipe"
)

// small is a root of two blocks.
func small() []recipe.Entry {
	return []recipe.Entry{
		{Path: "dir/in", Mode: recipe.TypeFile | 0o644, Data: []byte("data")},
		{Path: "two", Mode: recipe.TypeFile | 0o644, Data: []byte("more")},
		{Path: "link", Mode: recipe.TypeSymlink | 0o777, Data: []byte("dir")},
	}
}

// inode returns the number of a file's inode, and where it is in the image.
func inode(t testing.TB, image []byte, name string) (uint64, int) {
	t.Helper()
	img, err := lib.Open(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	info, err := fs.Stat(img, name)
	if err != nil {
		t.Fatal(err)
	}
	s, ok := info.Sys().(*lib.Stat)
	if !ok {
		t.Fatalf("%s has no inode", name)
	}
	meta := int(binary.LittleEndian.Uint32(image[1024+40:])) << image[1024+12]
	return uint64(s.Ino), meta + 32*int(s.Ino)
}

// relink makes the entries of one inode those of another.
func relink(t testing.TB, image []byte, from, to string) []byte {
	t.Helper()
	old, _ := inode(t, image, from)
	other, _ := inode(t, image, to)
	n := 0
	for at := 0; at+12 < len(image); at += 4 {
		// The number, and a small offset of the name: an entry of a directory.
		if e := image[at:]; binary.LittleEndian.Uint64(e) == old && e[8] >= 12 && e[8] < 100 && e[9] == 0 && e[10] > 0 && e[10] < 8 && e[11] == 0 && old != 0 {
			binary.LittleEndian.PutUint64(e, other)
			n++
		}
	}
	if n == 0 {
		t.Fatalf("no entry of inode %d was found", old)
	}
	return image
}

func TestRootsThatWriteDoesNotMakeAreRefused(t *testing.T) {
	t.Parallel()
	_, good := write(t, small())
	set := func(name string, at int, value byte) func([]byte) []byte {
		return func(b []byte) []byte {
			_, start := inode(t, b, name)
			b[start+at] = value
			return b
		}
	}
	rename := func(to string) func([]byte) []byte {
		return func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("two"), []byte(to)) }
	}
	for name, spoil := range map[string]func([]byte) []byte{
		"a directory that is the root":       func(b []byte) []byte { return relink(t, b, "dir", ".") },
		"a file in itself":                   func(b []byte) []byte { return relink(t, b, "dir/in", "dir") },
		"two names of a file":                func(b []byte) []byte { return relink(t, b, "two", "dir/in") },
		"a name with a slash":                rename("t/o"),
		"a name twice":                       rename("dir"),
		"a root that is no directory":        set(".", 5, 0x81),
		"a root that all may write":          set(".", 4, 0xff),
		"an inode that is no file":           set("two", 5, 0xc1),
		"an inode that is a directory":       set("two", 5, 0x41),
		"content of another layout":          set("two", 0, 4<<1),
		"content beyond the end of the root": set("two", 11, 0x40),
	} {
		b := spoil(bytes.Clone(good))
		if bytes.Equal(b, good) {
			t.Errorf("%s: nothing was changed", name)
		}
		if e, err := erofs.Read(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

func TestWhatEntriesCannotShowIsRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(w *lib.Writer) error
		want   error
	}{
		"an owner":       {func(w *lib.Writer) error { return w.Chown("/f", 1, 0) }, recipe.ErrEntry},
		"a group":        {func(w *lib.Writer) error { return w.Chown("/f", 0, 1) }, recipe.ErrEntry},
		"a time":         {func(w *lib.Writer) error { return w.Chtimes("/f", time.Unix(1, 0), time.Unix(1, 0)) }, recipe.ErrEntry},
		"an attribute":   {func(w *lib.Writer) error { return w.Setxattr("/f", "security.capability", "x") }, recipe.ErrEntry},
		"a pipe":         {func(w *lib.Writer) error { return w.Mknod("/p", 0o010600, 0) }, recipe.ErrEntry},
		"a block device": {func(w *lib.Writer) error { return w.Mknod("/b", 0o060600, 1) }, recipe.ErrEntry},
		"great depth": {func(w *lib.Writer) error {
			var err error
			for n := range 100 {
				err = errors.Join(err, w.Mkdir(strings.Repeat("/d", n+1), 0o755), w.Chtimes(strings.Repeat("/d", n+1), time.Unix(0, 0), time.Unix(0, 0)))
			}
			return err
		}, bounded.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := erofs.Read(bytes.NewReader(byLibrary(t, func(*lib.Writer) error { return nil }))); err != nil {
				t.Fatalf("without it: %v", err)
			}
			if e, err := erofs.Read(bytes.NewReader(byLibrary(t, tc.change))); !errors.Is(err, tc.want) {
				t.Errorf("%+v, %v", e, err)
			}
		})
	}
}

// byLibrary makes a root with the file f.
func byLibrary(t *testing.T, change func(*lib.Writer) error) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "root")
	out, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	w := lib.Create(out, lib.WithBuildTime(0, 0))
	f, err := w.Create("/f")
	if err != nil {
		t.Fatal(err)
	}
	epoch := time.Unix(0, 0)
	if err := errors.Join(f.Close(), w.Chtimes("/f", epoch, epoch), w.Chtimes("/", epoch, epoch), change(w), w.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzRead(f *testing.F) {
	for _, spoil := range []func([]byte) []byte{
		func(b []byte) []byte { return b }, func(b []byte) []byte { return relink(f, b, "dir", ".") }, func(b []byte) []byte { return relink(f, b, "dir/in", "dir") },
	} {
		_, b := write(f, small())
		f.Add(spoil(b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		// Files of seeds lack the zeros that fill the last block.
		b = append(b, make([]byte, -len(b)&4095)...)
		entries, err := erofs.Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		if _, err := recipe.Complete(entries); err != nil {
			t.Errorf("what was read makes no tree: %v", err)
		}
	})
}
