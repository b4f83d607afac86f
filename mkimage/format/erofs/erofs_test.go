// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package erofs_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/mkimage/format/erofs"
	"cocoon/rootfs/recipe"
)

// treeDigest is that of the tree as a file system.
const treeDigest = "7017b29fcbb24ac826a1e19e2020a56f457e04d5a6f5c443c5721514fe6fb8ae"

func tree() []recipe.Entry {
	return []recipe.Entry{
		{Path: "init", Mode: recipe.TypeFile | 0o755, Data: bytes.Repeat([]byte("binary "), 3000)},
		{Path: "dev", Mode: recipe.TypeDir | 0o755},
		{Path: "dev/console", Mode: recipe.TypeChar | 0o600, Major: 5, Minor: 1},
		{Path: "dev/far", Mode: recipe.TypeChar | 0o600, Major: 300, Minor: 70000},
		{Path: "root", Mode: recipe.TypeDir | 0o700},
		{Path: "tmp", Mode: recipe.TypeDir | 0o1777},
		{Path: "bin/su", Mode: recipe.TypeFile | 0o4755, Data: []byte("x")},
		{Path: "lib/modules/6.1/a.ko", Mode: recipe.TypeFile | 0o644, Data: []byte{}},
		{Path: "block", Mode: recipe.TypeFile | 0o600, Data: make([]byte, 4096)},
		{Path: "etc/resolv.conf", Mode: recipe.TypeSymlink | 0o777, Data: []byte("/run/x")},
	}
}

// write writes entries to a file and returns its path and content.
func write(t testing.TB, entries []recipe.Entry) (string, []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "root.erofs")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(erofs.Write(f, entries), f.Close()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return file, b
}

func TestTheOrderOfEntriesDoesNotChangeTheRoot(t *testing.T) {
	t.Parallel()
	_, want := write(t, tree())
	other := tree()
	slices.Reverse(other)
	if _, got := write(t, other); !bytes.Equal(got, want) {
		t.Error("another order gives other bytes")
	}
	if len(want)%4096 != 0 {
		t.Errorf("the root has %d bytes, not whole blocks", len(want))
	}
	// Another release of the library that writes other bytes makes other images.
	if got := fmt.Sprintf("%x", sha256.Sum256(want)); got != treeDigest {
		t.Errorf("digest %s, not %s", got, treeDigest)
	}
}

func TestWhatIsWrittenCanBeReadWithParentsAndSorted(t *testing.T) {
	t.Parallel()
	_, b := write(t, tree())
	got, err := erofs.Read(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	want, err := recipe.Complete(tree())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range [][]recipe.Entry{got, want} {
		for i := range l {
			if len(l[i].Data) == 0 {
				l[i].Data = nil
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read differs (-want +got):\n%s", diff)
	}
}

// The tool of the file system's own project is the reference.
func TestTheReferenceFindsNoFault(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("fsck.erofs")
	if err != nil {
		t.Fatalf("the package erofs-utils is needed: %v", err)
	}
	file, _ := write(t, tree())
	out := filepath.Join(t.TempDir(), "out")
	if b, err := exec.CommandContext(t.Context(), tool, "--extract="+out, file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	if b, err := os.ReadFile(filepath.Join(out, "init")); err != nil || !bytes.Equal(b, tree()[0].Data) {
		t.Errorf("init: %d bytes, %v", len(b), err)
	}
	if l, err := os.Readlink(filepath.Join(out, "etc/resolv.conf")); err != nil || l != "/run/x" {
		t.Errorf("link %q, %v", l, err)
	}
	if st, err := os.Stat(filepath.Join(out, "tmp")); err != nil || st.Mode()&os.ModeSticky == 0 || st.ModTime().Unix() != 0 {
		t.Errorf("tmp: %v, %v", st, err)
	}
}

// A guest binary has tens of MB, and a directory of modules has many blocks.
func TestLargeRootsAreReadByTheReference(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("fsck.erofs")
	if err != nil {
		t.Fatalf("the package erofs-utils is needed: %v", err)
	}
	entries := append(tree(),
		recipe.Entry{Path: "big", Mode: recipe.TypeFile | 0o755, Data: bytes.Repeat([]byte("0123456789abcdef!"), 100<<20/17)},
		recipe.Entry{Path: "far", Mode: recipe.TypeSymlink | 0o777, Data: bytes.Repeat([]byte("l"), 4090)},
		recipe.Entry{Path: strings.Repeat("n", 255), Mode: recipe.TypeFile | 0o644, Data: make([]byte, 4095)})
	for i := range 1000 {
		entries = append(entries, recipe.Entry{Path: fmt.Sprintf("lib/modules/6.1/module-%d", i), Mode: recipe.TypeFile | 0o644, Data: make([]byte, i)})
	}
	file, b := write(t, entries)
	if out, err := exec.CommandContext(t.Context(), tool, file).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	got, err := erofs.Read(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	want, err := recipe.Complete(entries)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(got, want, func(a, b recipe.Entry) bool {
		return a.Path == b.Path && a.Mode == b.Mode && a.Major == b.Major && a.Minor == b.Minor && bytes.Equal(a.Data, b.Data)
	}) {
		t.Errorf("%d entries are not the same %d", len(got), len(want))
	}
}

func TestEntriesThatMakeNoTreeAreRefused(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]recipe.Entry{
		"below a file": {Path: "init/x", Mode: recipe.TypeFile},
		"twice":        {Path: "init", Mode: recipe.TypeFile},
		"outside":      {Path: "../x", Mode: recipe.TypeFile},
		"a socket":     {Path: "x", Mode: 0o140000},
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "x"))
		if err != nil {
			t.Fatal(err)
		}
		err = erofs.Write(f, append(tree(), e))
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if !errors.Is(err, recipe.ErrEntry) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatIsNoRootIsRefused(t *testing.T) {
	t.Parallel()
	_, b := write(t, tree())
	for name, spoil := range map[string]func([]byte) []byte{
		"empty":      func([]byte) []byte { return nil },
		"magic":      func(b []byte) []byte { b[1024] ^= 1; return b },
		"cut":        func(b []byte) []byte { return b[:len(b)/2] },
		"superblock": func(b []byte) []byte { return b[:1030] },
	} {
		if e, err := erofs.Read(bytes.NewReader(spoil(bytes.Clone(b)))); err == nil {
			t.Errorf("%s: %d entries", name, len(e))
		}
	}
}
