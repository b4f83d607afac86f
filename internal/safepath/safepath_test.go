// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package safepath_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"cocoon/internal/safepath"
)

const secret = "outside"

// tree makes <temp>/root with links that try to leave it, and files outside
// that hold secret.
func tree(t testing.TB) (*safepath.Root, string) {
	t.Helper()
	top := t.TempDir()
	dir := filepath.Join(top, "root")
	for _, d := range []string{"", "a/b/c", "run", "etc"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(top, "secret"), []byte(secret), 0o644))
	must(t, os.MkdirAll(filepath.Join(top, "dir"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("inside"), 0o644))
	for name, target := range map[string]string{
		"up":       "../secret",
		"abs":      filepath.Join(top, "secret"),
		"absdir":   top,
		"passwd":   "/etc/passwd",
		"far":      "../../../../../../../../etc/passwd",
		"var":      "/run",
		"dangling": "/made/later",
		"loop":     "loop",
		"updir":    "../dir",
		"magic":    "/proc/self/root",
		"a/b/back": "../../..",
	} {
		must(t, os.Symlink(target, filepath.Join(dir, name)))
	}
	r, err := safepath.OpenRoot(dir)
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	return r, dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestLinksAndDotsResolveInsideTheRoot(t *testing.T) {
	t.Parallel()
	r, _ := tree(t)
	for _, name := range []string{"passwd", "far", "/etc/passwd", "../../etc/passwd", "a/b/../../etc/passwd", "a/b/back/etc/passwd"} {
		f, err := r.Open(name, unix.O_RDONLY, 0)
		if err != nil {
			t.Errorf("open %q: %v", name, err)
			continue
		}
		b, err := io.ReadAll(f)
		must(t, err)
		must(t, f.Close())
		if string(b) != "inside" {
			t.Errorf("open %q: read %q, want the file inside", name, b)
		}
	}
}

func TestNothingOutsideTheRootIsReached(t *testing.T) {
	t.Parallel()
	r, _ := tree(t)
	for name, want := range map[string]error{
		"up": unix.ENOENT, "abs": unix.ENOENT, "absdir/secret": unix.ENOENT, "../secret": unix.ENOENT,
		"a/b/back/../secret": unix.ENOENT, "loop": unix.ELOOP, "": safepath.ErrBadName,
		"etc\x00/passwd": safepath.ErrBadName, "updir/x": unix.ENOENT, "etc/passwd/x": unix.ENOTDIR,
	} {
		f, err := r.Open(name, unix.O_RDONLY, 0)
		if !errors.Is(err, want) {
			t.Errorf("open %q: got %v, want %v", name, err, want)
		}
		if f != nil {
			must(t, f.Close())
		}
	}
}

func TestProcfsLinksAreNotFollowed(t *testing.T) {
	t.Parallel()
	r, err := safepath.OpenRoot("/proc")
	must(t, err)
	defer func() { must(t, r.Close()) }()
	for _, name := range []string{"self/root/etc", "self/cwd", "self/exe"} {
		if f, err := r.Open(name, unix.O_PATH, 0); !errors.Is(err, unix.ELOOP) {
			t.Errorf("open %q: got %v, %v, want ELOOP", name, f, err)
		}
	}
}

func TestOpenParentYieldsAnEntryThatCanBeActedOn(t *testing.T) {
	t.Parallel()
	r, dir := tree(t)
	for name, want := range map[string]string{
		"x": "x", "a/b/x": "a/b/x", "var/x": "run/x", "/x/": "x", "absent/../x": "", "../../x": "x", "up": "up", "a/b/back/y": "y",
	} {
		d, base, err := r.OpenParent(name)
		if want == "" {
			if !errors.Is(err, unix.ENOENT) {
				t.Errorf("parent of %q: got %v, want ENOENT", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("parent of %q: %v", name, err)
			continue
		}
		got, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(d.Fd())))
		must(t, err)
		if got = filepath.Join(got, base); got != filepath.Join(dir, want) {
			t.Errorf("parent of %q leads to %q, want %q", name, got, want)
		}
		must(t, d.Close())
	}
}

func TestOpenParentRefusesNamesWithoutAnEntry(t *testing.T) {
	t.Parallel()
	r, _ := tree(t)
	for _, name := range []string{"", "/", ".", "..", "a/.", "a/..", "a/../", "///", "a/b\x00c"} {
		if _, base, err := r.OpenParent(name); !errors.Is(err, safepath.ErrBadName) {
			t.Errorf("parent of %q: got base %q, error %v; want ErrBadName", name, base, err)
		}
	}
}

func TestMkdirAllMakesDirectoriesInsideOnly(t *testing.T) {
	t.Parallel()
	r, dir := tree(t)
	for name, want := range map[string]string{
		"n/e/w": "n/e/w", "var/lib": "run/lib", "dangling": "made/later", "dangling/deep": "made/later/deep",
		"../../esc": "esc", "a/b/back/../q": "q", "updir/z": "dir/z", "a/b": "a/b", "/": ".", "magic/m": "proc/self/root/m",
	} {
		f, err := r.MkdirAll(name, 0o750)
		if err != nil {
			t.Errorf("mkdir %q: %v", name, err)
			continue
		}
		var got, st unix.Stat_t
		must(t, unix.Fstat(int(f.Fd()), &got))
		must(t, unix.Stat(filepath.Join(dir, want), &st))
		if got.Ino != st.Ino || got.Dev != st.Dev {
			t.Errorf("mkdir %q: is not %q", name, want)
		}
		must(t, f.Close())
	}
	entries, err := os.ReadDir(filepath.Dir(dir))
	must(t, err)
	for _, e := range entries {
		if n := e.Name(); n != "root" && n != "secret" && n != "dir" {
			t.Errorf("%q was made outside the root", n)
		}
	}
	inside, err := os.ReadDir(filepath.Join(filepath.Dir(dir), "dir"))
	must(t, err)
	if len(inside) != 0 {
		t.Errorf("%v was made outside the root", inside)
	}
}

func TestMkdirAllRefusesWhatIsNoDirectory(t *testing.T) {
	t.Parallel()
	r, _ := tree(t)
	for name, want := range map[string]error{
		"etc/passwd": unix.ENOTDIR, "etc/passwd/x": unix.ENOTDIR, "far/x": unix.ENOTDIR, "loop/x": unix.ELOOP,
		"": safepath.ErrBadName, "n\x00": safepath.ErrBadName, strings.Repeat("n", 256): unix.ENAMETOOLONG,
	} {
		if f, err := r.MkdirAll(name, 0o755); !errors.Is(err, want) {
			t.Errorf("mkdir %q: got %v, %v; want %v", name, f, err, want)
		}
	}
}

func TestOpenRootNeedsADirectory(t *testing.T) {
	t.Parallel()
	_, dir := tree(t)
	for _, name := range []string{filepath.Join(dir, "etc/passwd"), filepath.Join(dir, "absent"), ""} {
		if r, err := safepath.OpenRoot(name); err == nil {
			t.Errorf("open root %q succeeded: %v", name, r)
		}
	}
}

// TestARacingRenamerNeverLeadsOutside moves a directory to and fro, and swaps
// it with a link that leads out, while names with many ".." are opened and
// made below it.
func TestARacingRenamerNeverLeadsOutside(t *testing.T) {
	t.Parallel()
	r, dir := tree(t)
	must(t, os.Symlink("../..", filepath.Join(dir, "a/link")))
	must(t, os.MkdirAll(filepath.Join(dir, "a/sub/deep"), 0o755))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		a, link, sub := filepath.Join(dir, "a/moved"), filepath.Join(dir, "a/link"), filepath.Join(dir, "a/sub")
		for {
			select {
			case <-stop:
				return
			default:
			}
			// Each of the two may lose against a directory that was just made.
			_ = unix.Renameat2(unix.AT_FDCWD, sub, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			_ = os.Rename(sub, a)
			_ = os.Rename(a, sub)
		}
	})
	for range 5000 {
		if f, err := r.Open("a/sub/deep/../../../../secret", unix.O_RDONLY, 0); err == nil {
			b, _ := io.ReadAll(f)
			t.Errorf("reached %q", b)
			must(t, f.Close())
		}
		if f, err := r.MkdirAll("a/sub/deep/../../../../../made", 0o755); err == nil {
			must(t, f.Close())
		}
	}
	close(stop)
	wg.Wait()
	if _, err := os.Stat(filepath.Join(filepath.Dir(dir), "made")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory was made outside the root: %v", err)
	}
}

func FuzzNamesStayInside(f *testing.F) {
	for _, name := range []string{"a/b", "../x", "var/../..", "up", "abs", "absdir/secret", "a/b/back/..", "loop", "magic/x", "dangling/../..", "a//./..", "\x00"} {
		f.Add(name)
	}
	r, dir := tree(f)
	f.Fuzz(func(t *testing.T, name string) {
		check := func(file *os.File) {
			got, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(file.Fd())))
			must(t, err)
			if got != dir && !strings.HasPrefix(got, dir+"/") {
				t.Errorf("%q led to %q", name, got)
			}
			must(t, file.Close())
		}
		if file, err := r.Open(name, unix.O_PATH, 0); err == nil {
			check(file)
		}
		if file, base, err := r.OpenParent(name); err == nil {
			if base == "" || base == "." || base == ".." || strings.ContainsAny(base, "/\x00") {
				t.Errorf("parent of %q: base %q", name, base)
			}
			check(file)
		}
		if file, err := r.MkdirAll(name, 0o755); err == nil {
			check(file)
		}
	})
}
