// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cocoon/internal/bounded"
)

const crashDir = "COCOON_STORE_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		if err := writeForever(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func open(t testing.TB, dir string) *Dir {
	t.Helper()
	d, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// content is what the crashing writer stores in its n-th round.
func content(n int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%08d", n), 4096) }

// writeForever stores one new and one changing secret per round and says so on
// standard output after both writes returned.
func writeForever(dir string) error {
	d, err := OpenDir(dir)
	if err != nil {
		return err
	}
	r := NewResources(d)
	for n := 0; ; n++ {
		if err := r.Set(context.Background(), Path{"new", "key", strconv.Itoa(n)}, content(n)); err != nil {
			return err
		}
		if err := r.Set(context.Background(), Path{"same", "key", "1"}, content(n)); err != nil {
			return err
		}
		if _, err := fmt.Println(n); err != nil {
			return err
		}
	}
}

// crash starts a writer, kills it after it reported round last, and returns
// the last round that it reported.
func crash(t *testing.T, dir string, last int) int {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reported, killed := -1, false
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if reported, err = strconv.Atoi(lines.Text()); err != nil {
			t.Fatal(err)
		}
		if reported >= last && !killed {
			killed = true
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || !killed {
		t.Fatalf("the writer ended by itself after round %d: %v", reported, err)
	}
	return reported
}

func TestKillingAWriterLosesNothing(t *testing.T) {
	t.Parallel()
	for round := range 6 {
		dir := t.TempDir()
		last := crash(t, dir, round*3)
		r := NewResources(open(t, dir))
		for n := range last + 1 {
			got, err := r.Get(t.Context(), Path{"new", "key", strconv.Itoa(n)})
			if err != nil || !bytes.Equal(got, content(n)) {
				t.Fatalf("secret %d of %d: %d bytes, error %v", n, last, len(got), err)
			}
		}
		got, err := r.Get(t.Context(), Path{"same", "key", "1"})
		if err != nil || !bytes.Equal(got, content(last)) && !bytes.Equal(got, content(last+1)) {
			t.Fatalf("changing secret after round %d: %.8q, error %v", last, got, err)
		}
		noTempFiles(t, dir)
	}
}

func noTempFiles(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if strings.HasPrefix(filepath.Base(p), tempPrefix) {
			t.Errorf("%q was left behind", p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestHalfWrittenFilesAreSweptAndNeverServed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	half := filepath.Join(dir, "a", "b", tempPrefix+"x")
	if err := os.MkdirAll(filepath.Dir(half), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(half, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	noTempFiles(t, dir)
}

func TestSecretsCanBePutThereByHand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := NewResources(open(t, dir))
	for _, name := range []string{"a/b/c", "a/b/.hidden", "a/d", "stray"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	names, err := r.List(t.Context())
	if err != nil || !slices.Equal(names, []string{"a/b/c"}) {
		t.Fatalf("names %q, error %v", names, err)
	}
	if got, err := r.Get(t.Context(), Path{"a", "b", "c"}); err != nil || string(got) != "a/b/c" {
		t.Fatalf("got %q, error %v", got, err)
	}
}

func TestOnlyFilesBelowTheFolderAreRead(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := open(t, dir)
	if err := os.MkdirAll(filepath.Join(dir, "a", "b", "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "a", "b", "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a/b/link", "../secret", outside, "a/b/dir", "a/b/none"} {
		if got, err := d.Read(name, 10); err == nil {
			t.Errorf("%q gives %q", name, got)
		}
	}
	if err := d.Write("../x", nil); err == nil {
		t.Error("wrote outside")
	}
	if err := d.Write("big", make([]byte, 11)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Read("big", 10); !errors.Is(err, bounded.ErrTooLarge) {
		t.Errorf("a large file: %v", err)
	}
}

func TestAWriteThatFailsLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := open(t, dir)
	if err := os.MkdirAll(filepath.Join(dir, "a", "b", "c", "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.Write("a/b/c", []byte("x")); err == nil {
		t.Fatal("replaced a folder")
	}
	noTempFiles(t, dir)
}

func TestTheLockIsHeldOnce(t *testing.T) {
	t.Parallel()
	p := filepath.Join(t.TempDir(), "lock")
	release, err := Lock(p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(p); !errors.Is(err, ErrLocked) {
		t.Fatalf("second lock: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	release, err = Lock(p)
	if err != nil {
		t.Fatalf("after release: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"default/key/1", "../a/b", "a/b/c.d", "a//c", "a/b/.c", "a/b/%2e", "é/b/c", "a/b/c/d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePath(s)
		if err != nil {
			if !errors.Is(err, ErrBadName) {
				t.Fatalf("error %v is not ErrBadName", err)
			}
			return
		}
		if p.String() != s || !filepath.IsLocal(s) || filepath.Clean(s) != s || strings.Count(s, "/") != 2 {
			t.Fatalf("%q was accepted as %q", s, p)
		}
	})
}
