// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package copyfile

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func file(p string, data string) Request {
	return Request{
		Path: p, Size: int64(len(data)), Mode: unix.S_IFREG | 0o640, DirMode: 0x80000000 | 0o750,
		UID: os.Getuid(), GID: os.Getgid(), Data: []byte(data),
	}
}

func link(p, target string) Request {
	return Request{Path: p, Mode: unix.S_IFLNK | 0o777, DirMode: 0o750, UID: os.Getuid(), GID: os.Getgid(), Data: []byte(target)}
}

func dir(p string, mode uint32) Request {
	return Request{Path: p, Mode: unix.S_IFDIR | mode, DirMode: 0o750, UID: os.Getuid(), GID: os.Getgid()}
}

func newCopier(t *testing.T) (*Copier, string) {
	t.Helper()
	shared := filepath.Join(t.TempDir(), "shared", "containers")
	return New(shared), shared
}

func must(t *testing.T, c *Copier, r Request) {
	t.Helper()
	if err := c.Copy(r); err != nil {
		t.Fatalf("copy %q: %v", r.Path, err)
	}
}

func content(t *testing.T, p, want string) {
	t.Helper()
	got, err := os.ReadFile(p)
	if err != nil || string(got) != want {
		t.Fatalf("%s holds %q (%v), want %q", p, got, err, want)
	}
}

func noTemp(t *testing.T, dir string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range list {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			t.Errorf("%s was left behind", e.Name())
		}
	}
}

func TestAFileAppearsOnlyWhenItIsComplete(t *testing.T) {
	t.Parallel()
	c, shared := newCopier(t)
	p := shared + "/vol/a.txt"
	whole := file(p, "hello world")
	first, second := whole, whole
	first.Data = whole.Data[:6]
	second.Data, second.Offset = whole.Data[6:], 6
	must(t, c, first)
	if _, err := os.Lstat(p); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the incomplete file is visible: %v", err)
	}
	must(t, c, second)
	content(t, p, "hello world")
	st, err := os.Stat(p)
	if err != nil || st.Mode() != 0o640 {
		t.Errorf("mode %v (%v), want 0640", st.Mode(), err)
	}
	if st, err := os.Stat(shared + "/vol"); err != nil || st.Mode().Perm() != 0o750 {
		t.Errorf("parent has mode %v (%v), want 0750", st.Mode(), err)
	}
	noTemp(t, shared+"/vol")
}

func TestFilesThatShareAStemDoNotMix(t *testing.T) {
	t.Parallel()
	c, shared := newCopier(t)
	a, b := file(shared+"/a.txt", "text"), file(shared+"/a.json", "json")
	a1, a2, b1, b2 := a, a, b, b
	a1.Data, b1.Data = a.Data[:2], b.Data[:2]
	a2.Data, b2.Data = a.Data[2:], b.Data[2:]
	a2.Offset, b2.Offset = 2, 2
	for _, r := range []Request{a1, b1, a2, b2, file(shared+"/ca.tmp", "tmp")} {
		must(t, c, r)
	}
	content(t, shared+"/a.txt", "text")
	content(t, shared+"/a.json", "json")
	content(t, shared+"/ca.tmp", "tmp")
}

func TestAnEmptyFileTakesOneCall(t *testing.T) {
	t.Parallel()
	c, shared := newCopier(t)
	must(t, c, file(shared+"/empty", ""))
	content(t, shared+"/empty", "")
}

func TestALinkIsReplacedInOneStep(t *testing.T) {
	t.Parallel()
	c, shared := newCopier(t)
	must(t, c, dir(shared+"/v/..1", 0o755))
	must(t, c, file(shared+"/v/..1/k", "one"))
	must(t, c, link(shared+"/v/..data", "..1"))
	must(t, c, link(shared+"/v/k", "..data/k"))
	content(t, shared+"/v/k", "one")
	must(t, c, file(shared+"/v/..2/k", "two"))
	must(t, c, link(shared+"/v/..data", "..2"))
	content(t, shared+"/v/k", "two")
	noTemp(t, shared+"/v")
}

func TestKindsReplaceEachOther(t *testing.T) {
	t.Parallel()
	c, shared := newCopier(t)
	p := shared + "/x"
	must(t, c, file(p, "f"))
	must(t, c, dir(p, 0o711))
	if st, err := os.Lstat(p); err != nil || !st.IsDir() || st.Mode().Perm() != 0o711 {
		t.Fatalf("want a directory 0711, have %v (%v)", st.Mode(), err)
	}
	must(t, c, link(p, "elsewhere"))
	if to, err := os.Readlink(p); err != nil || to != "elsewhere" {
		t.Fatalf("link to %q (%v)", to, err)
	}
	must(t, c, dir(p, 0o755))
	must(t, c, file(p, "again"))
	content(t, p, "again")
}

func TestADirectoryWithContentIsNotReplaced(t *testing.T) {
	t.Parallel()
	c, shared := newCopier(t)
	must(t, c, file(shared+"/d/keep", "kept"))
	for _, r := range []Request{file(shared+"/d", "f"), link(shared+"/d", "l")} {
		if err := c.Copy(r); !errors.Is(err, unix.ENOTEMPTY) {
			t.Errorf("copy over a full directory: %v, want ENOTEMPTY", err)
		}
	}
	content(t, shared+"/d/keep", "kept")
	noTemp(t, shared)
}

func TestALinkDoesNotLeadOutOfTheSharedDirectory(t *testing.T) {
	t.Parallel()
	c, shared := newCopier(t)
	outside := t.TempDir()
	must(t, c, link(shared+"/abs", outside))
	must(t, c, link(shared+"/up", "../../../../../../../../../.."+outside))
	must(t, c, link(shared+"/self", "."))
	for _, r := range []Request{
		file(shared+"/abs/evil", "x"), dir(shared+"/abs/evildir", 0o777), link(shared+"/abs/evillink", "/"),
		file(shared+"/up/evil", "x"), dir(shared+"/up/d/e", 0o777),
	} {
		// Inside the root meaning the link leads to a place in the shared
		// directory; whether that works does not matter, where it lands does.
		_ = c.Copy(r)
	}
	list, err := os.ReadDir(outside)
	if err != nil || len(list) != 0 {
		t.Fatalf("%d entries outside the shared directory (%v)", len(list), err)
	}
	must(t, c, file(shared+"/self/fine", "in"))
	content(t, shared+"/fine", "in")
}

func TestAFinalLinkIsReplacedAndNotFollowed(t *testing.T) {
	t.Parallel()
	c, shared := newCopier(t)
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("safe"), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, c, link(shared+"/l", victim))
	must(t, c, file(shared+"/l", "new"))
	content(t, victim, "safe")
	content(t, shared+"/l", "new")
	must(t, c, link(shared+"/l2", filepath.Dir(victim)))
	must(t, c, dir(shared+"/l2", 0o777))
	if st, err := os.Stat(filepath.Dir(victim)); err != nil || st.Mode().Perm() == 0o777 {
		t.Fatalf("the link's target was changed: %v (%v)", st.Mode(), err)
	}
}

func TestHostileRequestsAreRefused(t *testing.T) {
	t.Parallel()
	c, shared := newCopier(t)
	base := file(shared+"/f", "data")
	with := func(change func(*Request)) Request {
		r := base
		change(&r)
		return r
	}
	for name, r := range map[string]Request{
		"outside":             file("/etc/passwd", "x"),
		"the directory":       file(shared, "x"),
		"a sibling":           file(shared+"x/f", "x"),
		"dots":                file(shared+"/../f", "x"),
		"dots inside":         file(shared+"/a/../f", "x"),
		"double slash":        file(shared+"//f", "x"),
		"trailing slash":      file(shared+"/f/", "x"),
		"NUL":                 file(shared+"/a\x00b", "x"),
		"empty":               file("", "x"),
		"relative":            file("f", "x"),
		"a temporary name":    file(shared+"/"+tempName("f"), "x"),
		"below one":           file(shared+"/"+tempPrefix+"1/f", "x"),
		"negative size":       with(func(r *Request) { r.Size = -1 }),
		"negative offset":     with(func(r *Request) { r.Offset = -1 }),
		"smallest offset":     with(func(r *Request) { r.Offset = math.MinInt64 }),
		"offset after end":    with(func(r *Request) { r.Offset = 5 }),
		"more than promised":  with(func(r *Request) { r.Size = 3 }),
		"overflow":            with(func(r *Request) { r.Size, r.Offset = math.MaxInt64, math.MaxInt64-1 }),
		"later chunk first":   with(func(r *Request) { r.Size, r.Offset = 100, 50 }),
		"huge hole":           with(func(r *Request) { r.Size, r.Offset = math.MaxInt64, math.MaxInt64/2 }),
		"empty chunk":         with(func(r *Request) { r.Data = nil }),
		"a device":            with(func(r *Request) { r.Mode = unix.S_IFCHR | 0o666 }),
		"a pipe":              with(func(r *Request) { r.Mode = unix.S_IFIFO | 0o666 }),
		"no type":             with(func(r *Request) { r.Mode = 0o644 }),
		"link without target": link(shared+"/l", ""),
		"link with NUL":       link(shared+"/l", "a\x00b"),
		"link too long":       link(shared+"/l", strings.Repeat("a", unix.PathMax)),
		"name too long":       file(shared+"/"+strings.Repeat("a", 300), "x"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := c.Copy(r); err == nil {
				t.Fatal("the request was carried out")
			}
		})
	}
	t.Cleanup(func() {
		noTemp(t, shared)
		if _, err := os.Lstat(shared + "/f"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a refused request left a file: %v", err)
		}
	})
}

func TestAFailedChunkLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	c, shared := newCopier(t)
	r := file(shared+"/f", "0123456789")
	first := r
	first.Data = r.Data[:4]
	must(t, c, first)
	skip := r
	skip.Data, skip.Offset = r.Data[6:], 6
	if err := c.Copy(skip); !errors.Is(err, ErrInvalid) {
		t.Fatalf("a chunk with a gap: %v, want ErrInvalid", err)
	}
	must(t, c, r)
	content(t, shared+"/f", "0123456789")
}

func TestConcurrentCopiesToOnePathGiveOneOfThem(t *testing.T) {
	t.Parallel()
	c, shared := newCopier(t)
	p := shared + "/f"
	must(t, c, file(p, strings.Repeat("z", 1<<16)))
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			err := c.Copy(file(p, strings.Repeat(string(rune('a'+i)), 1<<16)))
			if err != nil && !errors.Is(err, ErrBusy) {
				t.Errorf("copy: %v", err)
			}
		})
	}
	wg.Wait()
	got, err := os.ReadFile(p)
	if err != nil || len(got) != 1<<16 || !bytes.Equal(got, bytes.Repeat(got[:1], 1<<16)) {
		t.Fatalf("%d bytes, mixed or cut (%v)", len(got), err)
	}
}

func FuzzCopy(f *testing.F) {
	f.Add("/a", int64(1), int64(0), uint32(unix.S_IFREG|0o644), []byte("x"))
	f.Add("/../a", int64(1), int64(0), uint32(unix.S_IFREG|0o644), []byte("x"))
	f.Add("/a/b", int64(-1), int64(9), uint32(unix.S_IFLNK), []byte("/"))
	f.Add("/a", int64(0), int64(0), uint32(unix.S_IFDIR|0o7777), []byte{})
	f.Fuzz(func(t *testing.T, p string, size, offset int64, mode uint32, data []byte) {
		top := t.TempDir()
		c := New(filepath.Join(top, "in"))
		_ = c.Copy(Request{Path: filepath.Join(top, "in") + p, Size: size, Offset: offset, Mode: mode, DirMode: mode,
			UID: os.Getuid(), GID: os.Getgid(), Data: data})
		list, err := os.ReadDir(top)
		if err != nil || len(list) > 1 || (len(list) == 1 && list[0].Name() != "in") {
			t.Fatalf("entries outside: %v (%v)", list, err)
		}
	})
}
