// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cpio_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/mkimage/format/cpio"
	"cocoon/rootfs/recipe"
)

func tree() []recipe.Entry {
	return []recipe.Entry{
		{Path: "init", Mode: recipe.TypeFile | 0o755, Data: []byte("binary")},
		{Path: "dev", Mode: recipe.TypeDir | 0o755},
		{Path: "dev/console", Mode: recipe.TypeChar | 0o600, Major: 5, Minor: 1},
		{Path: "tmp", Mode: recipe.TypeDir | 0o1777},
		{Path: "lib/modules/6.1/a.ko", Mode: recipe.TypeFile | 0o644, Data: []byte{}},
		{Path: "etc/resolv.conf", Mode: recipe.TypeSymlink | 0o777, Data: []byte("/run/x")},
	}
}

func write(t *testing.T, entries []recipe.Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := cpio.Write(&b, entries); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestTheOrderOfEntriesDoesNotChangeTheArchive(t *testing.T) {
	t.Parallel()
	want := write(t, tree())
	other := tree()
	slices.Reverse(other)
	if got := write(t, other); !bytes.Equal(got, want) {
		t.Error("another order gives other bytes")
	}
	if len(want)%512 != 0 {
		t.Errorf("archive has %d bytes, not a multiple of 512", len(want))
	}
}

func TestWhatIsWrittenCanBeReadWithParentsAndSorted(t *testing.T) {
	t.Parallel()
	got, err := cpio.Read(write(t, tree()))
	if err != nil {
		t.Fatal(err)
	}
	dir := func(p string) recipe.Entry {
		return recipe.Entry{Path: p, Mode: recipe.TypeDir | 0o755, Data: []byte{}}
	}
	want := []recipe.Entry{
		dir("dev"), {Path: "dev/console", Mode: recipe.TypeChar | 0o600, Major: 5, Minor: 1, Data: []byte{}},
		dir("etc"), {Path: "etc/resolv.conf", Mode: recipe.TypeSymlink | 0o777, Data: []byte("/run/x")},
		{Path: "init", Mode: recipe.TypeFile | 0o755, Data: []byte("binary")},
		dir("lib"), dir("lib/modules"), dir("lib/modules/6.1"),
		{Path: "lib/modules/6.1/a.ko", Mode: recipe.TypeFile | 0o644, Data: []byte{}},
		{Path: "tmp", Mode: recipe.TypeDir | 0o1777, Data: []byte{}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("archive differs (-want +got):\n%s", diff)
	}
}

// TestHeadersAreBlankOfTheBuilder checks the fields by the format's definition:
// magic, then 13 fields of 8 hexadecimal digits.
func TestHeadersAreBlankOfTheBuilder(t *testing.T) {
	t.Parallel()
	b := write(t, tree()[:1])
	if string(b[:6]) != "070701" {
		t.Fatalf("magic is %q", b[:6])
	}
	names := []string{"ino", "mode", "uid", "gid", "nlink", "mtime", "size", "major", "minor", "rmajor", "rminor", "namesize", "check"}
	want := []string{"00000001", "000081ED", "00000000", "00000000", "00000001", "00000000", "00000006",
		"00000000", "00000000", "00000000", "00000000", "00000005", "00000000"}
	for i, name := range names {
		if got := string(b[6+8*i : 14+8*i]); got != want[i] {
			t.Errorf("%s is %s, want %s", name, got, want[i])
		}
	}
	if !strings.Contains(string(b), "TRAILER!!!") {
		t.Errorf("no trailer in %s", hex.EncodeToString(b))
	}
}

func TestEntriesThatMakeNoTreeAreRefused(t *testing.T) {
	t.Parallel()
	f := func(p string) recipe.Entry { return recipe.Entry{Path: p, Mode: recipe.TypeFile | 0o644} }
	for name, in := range map[string][]recipe.Entry{
		"absolute":           {f("/etc/passwd")},
		"escaping":           {f("../x")},
		"unclean":            {f("a//b")},
		"root":               {f(".")},
		"empty":              {f("")},
		"trailer":            {f("TRAILER!!!")},
		"zero byte":          {f("a\x00b")},
		"twice":              {f("a"), f("a")},
		"below a file":       {f("a"), f("a/b")},
		"below a link":       {{Path: "a", Mode: recipe.TypeSymlink | 0o777, Data: []byte("/")}, f("a/b")},
		"link to nothing":    {{Path: "a", Mode: recipe.TypeSymlink | 0o777}},
		"directory of bytes": {{Path: "a", Mode: recipe.TypeDir | 0o755, Data: []byte("x")}},
		"no type":            {{Path: "a", Mode: 0o644}},
		"socket":             {{Path: "a", Mode: 0o140644}},
	} {
		if err := cpio.Write(&bytes.Buffer{}, in); !errors.Is(err, recipe.ErrEntry) {
			t.Errorf("%s: got %v, want ErrEntry", name, err)
		}
	}
}

type full struct{ left int }

var errFull = errors.New("disk full")

func (f *full) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestAFullDiskIsReportedWhereverItHappens(t *testing.T) {
	t.Parallel()
	size := len(write(t, tree()))
	for n := range size {
		if err := cpio.Write(&full{left: n}, tree()); !errors.Is(err, errFull) {
			t.Fatalf("room for %d of %d bytes: got %v", n, size, err)
		}
	}
}

func TestTheSystemsCpioAgrees(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("no cpio on this machine")
	}
	file := t.TempDir() + "/x.cpio"
	if err := os.WriteFile(file, write(t, tree()), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), tool, "-t", "--quiet", "-F", file).CombinedOutput()
	want := "dev\ndev/console\netc\netc/resolv.conf\ninit\nlib\nlib/modules\nlib/modules/6.1\nlib/modules/6.1/a.ko\ntmp\n"
	if err != nil || string(out) != want {
		t.Errorf("cpio -t says %q, %v", out, err)
	}
}
