// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/internal/hungfs"
	"cocoon/internal/wire/agentpb"
)

func following(run string) *agentpb.Storage {
	return &agentpb.Storage{
		Driver: "watchable-bind", Source: run + "/shared/containers/c-1234-config", Fstype: "bind",
		MountPoint: run + "/shared/containers/watchable/c-1234-config",
	}
}

// configMap makes a directory as Kubernetes does: links through ..data to a
// directory of one version.
func configMap(t *testing.T, dir, version, text string) {
	t.Helper()
	write(t, filepath.Join(dir, version, "settings"), text)
	if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..data/settings", filepath.Join(dir, "settings")); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
}

func has(t *testing.T, file, want string) {
	t.Helper()
	if b, err := os.ReadFile(file); err != nil || string(b) != want {
		t.Errorf("%s holds %q (%v), want %q", file, b, err, want)
	}
}

// copyOf is an empty copy of a directory that no manager has mounted.
func copyOf(t *testing.T, source string) (w *mirror, dir string) {
	t.Helper()
	dir = t.TempDir()
	from, err := os.OpenRoot(source)
	if err != nil {
		t.Fatal(err)
	}
	w = newMirror(from)
	if w.target, err = os.OpenRoot(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(w.source.Close(), w.target.Close()); err != nil {
			t.Error(err)
		}
	})
	return w, dir
}

func inStep(t *testing.T, w *mirror) {
	t.Helper()
	if err := w.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// The host may replace either directory by a link while the copy follows.
func TestACopyDoesNotFollowALinkInPlaceOfItsEnds(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), t.TempDir()
	source := filepath.Join(dir, "source")
	write(t, source+"/file", "one")
	write(t, outside+"/secret", "of the guest")
	w, target := copyOf(t, source)
	for _, end := range []string{source, target} {
		if err := errors.Join(os.Rename(end, end+"-moved"), os.Symlink(outside, end)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, source+"-moved/new", "two")
	inStep(t, w)
	has(t, target+"-moved/new", "two")
	gone(t, target+"-moved/secret")
	list, err := os.ReadDir(outside)
	if err != nil || len(list) != 1 {
		t.Errorf("outside: %v (%v)", list, err)
	}
	if err := os.RemoveAll(target + "-moved"); err != nil {
		t.Error(err)
	}
}

func TestACopyFollowsItsSource(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	s := following(run)
	configMap(t, s.Source, "..v1", "one")
	attach(t, m, "c", s)
	has(t, s.MountPoint+"/settings", "one")
	if what := fileSystem(t, s.MountPoint); what != unix.TMPFS_MAGIC || sameDir(t, s.Source, s.MountPoint) {
		t.Errorf("the copy lies on a file system of type %#x", what)
	}
	w, copied := copyOf(t, s.Source)
	inStep(t, w)
	configMap(t, s.Source, "..v2", "two")
	if err := os.RemoveAll(filepath.Join(s.Source, "..v1")); err != nil {
		t.Fatal(err)
	}
	inStep(t, w)
	has(t, copied+"/settings", "two")
	gone(t, copied+"/..v1")
	if link, err := os.Readlink(copied + "/..data"); err != nil || link != "..v2" {
		t.Errorf("..data leads to %q (%v)", link, err)
	}
	write(t, s.Source+"/..v2/settings", "other")
	if err := os.Chtimes(s.Source+"/..v2/settings", time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	inStep(t, w)
	has(t, copied+"/settings", "other")
	detach(t, m, "c")
	gone(t, s.MountPoint)
	has(t, s.Source+"/settings", "other")
}

func TestWhatIsTooLargeForACopyIsMounted(t *testing.T) {
	t.Parallel()
	for name, fill := range map[string]func(t *testing.T, dir string){
		"many": func(t *testing.T, dir string) {
			for i := range maxWatched + 1 {
				write(t, fmt.Sprint(dir, "/", i), "x")
			}
		},
		"large": func(t *testing.T, dir string) { write(t, dir+"/0", strings.Repeat("x", maxWatchedBytes+1)) },
	} {
		m, run := newManager(t, nil)
		s := following(run)
		fill(t, s.Source)
		attach(t, m, "c", s)
		if !sameDir(t, s.Source, s.MountPoint) {
			t.Errorf("%s: not mounted", name)
		}
		if _, err := os.Stat(s.MountPoint + "/0"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		detach(t, m, "c")
		gone(t, s.MountPoint)
	}
}

func fileSystem(t *testing.T, p string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(p, &st); err != nil {
		t.Fatal(err)
	}
	return st.Type
}

func sameDir(t *testing.T, a, b string) bool {
	t.Helper()
	x, err := os.Stat(a)
	y, err2 := os.Stat(b)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return os.SameFile(x, y)
}

func TestACopyKeepsOwnersAndModes(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	s := following(run)
	for name, mode := range map[string]uint32{"": 0o2750, "/dir": 0o1770, "/dir/private": 0o600, "/program": 0o4755} {
		if strings.HasSuffix(name, "r") || name == "" {
			if err := os.MkdirAll(s.Source+name, 0o755); err != nil {
				t.Fatal(err)
			}
		} else {
			write(t, s.Source+name, "x")
		}
		if err := errors.Join(os.Chown(s.Source+name, 1234, 4321), unix.Chmod(s.Source+name, mode)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("program", s.Source+"/link"), os.Lchown(s.Source+"/link", 1, 2)); err != nil {
		t.Fatal(err)
	}
	attach(t, m, "c", s)
	same := func(dir string) {
		t.Helper()
		for _, name := range []string{"", "/dir", "/dir/private", "/program", "/link"} {
			var want, got unix.Stat_t
			if err := errors.Join(unix.Lstat(s.Source+name, &want), unix.Lstat(dir+name, &got)); err != nil {
				t.Fatal(err)
			}
			if got.Mode != want.Mode || got.Uid != want.Uid || got.Gid != want.Gid {
				t.Errorf("%q: mode %o of %d:%d, want %o of %d:%d", name, got.Mode, got.Uid, got.Gid, want.Mode, want.Uid, want.Gid)
			}
		}
	}
	same(s.MountPoint)
	w, dir := copyOf(t, s.Source)
	inStep(t, w)
	same(dir)
	// A change of nothing else is followed as well.
	if err := errors.Join(os.Chmod(s.Source+"/dir/private", 0o640), os.Chown(s.Source+"/dir", 7, 8), os.Chmod(s.Source, 0o700), os.Lchown(s.Source+"/link", 3, 4)); err != nil {
		t.Fatal(err)
	}
	inStep(t, w)
	same(dir)
	detach(t, m, "c")
}

// Whatever takes the place of an entry, the copy goes on.
func TestACopyFollowsAnEntryOfAnotherKind(t *testing.T) {
	t.Parallel()
	kinds := map[string]func(t *testing.T, p string){
		"file": func(t *testing.T, p string) { t.Helper(); write(t, p, "text") },
		"directory": func(t *testing.T, p string) {
			t.Helper()
			write(t, p+"/sub/file", "below")
			write(t, p+"/same", "in the directory")
		},
		"link":    func(t *testing.T, p string) { t.Helper(); must(t, os.Symlink("other", p)) },
		"nothing": func(t *testing.T, _ string) { t.Helper() },
		"pipe":    func(t *testing.T, p string) { t.Helper(); must(t, unix.Mkfifo(p, 0o600)) },
	}
	for from, before := range kinds {
		for to, after := range kinds {
			source := t.TempDir()
			write(t, source+"/other/same", "elsewhere")
			before(t, source+"/entry")
			w, dir := copyOf(t, source)
			inStep(t, w)
			must(t, os.RemoveAll(source+"/entry"))
			after(t, source+"/entry")
			write(t, source+"/later", "follows")
			inStep(t, w)
			has(t, dir+"/later", "follows")
			has(t, dir+"/other/same", "elsewhere")
			switch to {
			case "file":
				has(t, dir+"/entry", "text")
			case "directory":
				has(t, dir+"/entry/sub/file", "below")
			case "link":
				if link, err := os.Readlink(dir + "/entry"); err != nil || link != "other" {
					t.Errorf("from %s to %s: %q (%v)", from, to, link, err)
				}
			default:
				gone(t, dir+"/entry")
			}
			list, err := os.ReadDir(dir)
			if want := map[bool]int{true: 3, false: 2}[to != "nothing" && to != "pipe"]; err != nil || len(list) != want {
				t.Errorf("from %s to %s: %v (%v)", from, to, list, err)
			}
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestACopyThatGrowsTooLargeGivesWayToItsSource(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	s := following(run)
	write(t, s.Source+"/0", "small")
	from, err := m.open(s.Source)
	must(t, err)
	source, err := os.OpenRoot(s.Source)
	must(t, err)
	f := &follower{m: m, from: from, mirror: newMirror(source), ended: make(chan struct{}), stop: func() {}}
	must(t, f.mount(s.MountPoint))
	close(f.ended) // steps are taken by hand
	step := func(want bool) {
		t.Helper()
		if done, err := f.step(t.Context()); done != want || err != nil {
			t.Fatalf("%t (%v)", done, err)
		}
	}
	step(false)
	has(t, s.MountPoint+"/0", "small")
	// A container has it bound elsewhere, and takes over what is mounted later.
	elsewhere := t.TempDir()
	must(t, errors.Join(unix.Mount(s.MountPoint, elsewhere, "", unix.MS_BIND, ""), unix.Mount("", elsewhere, "", unix.MS_SLAVE, "")))
	t.Cleanup(func() {
		for range 2 {
			if err := unmount(elsewhere); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range maxWatched + 1 {
		write(t, fmt.Sprint(s.Source, "/", i), "many")
	}
	step(true)
	for _, dir := range []string{s.MountPoint, elsewhere} {
		if !sameDir(t, s.Source, dir) {
			t.Errorf("%s does not show the source", dir)
		}
		has(t, dir+"/16", "many")
	}
	must(t, f.close())
	must(t, f.release(t.Context()))
	must(t, f.release(t.Context()))
	gone(t, s.MountPoint)
	has(t, s.Source+"/16", "many")
}

// A host that does not answer keeps neither a release nor an attachment.
func TestASilentHostDoesNotKeepTheReleaseOfACopy(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	s := following(run)
	must(t, os.MkdirAll(s.Source, 0o755))
	host := hungfs.Mount(t, s.Source)
	attach(t, m, "c", s)
	host.Silence()
	<-host.Asked() // by the goroutine that follows
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := m.Detach(ctx, "c"); err != nil {
		t.Error(err)
	}
	gone(t, s.MountPoint)
	if n := len(m.copies); n != 1 {
		t.Errorf("%d copies are counted while the host does not answer", n)
	}
}

func TestMoreCopiesThanAreAllowedAreRefused(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	s := following(run)
	write(t, s.Source+"/0", "x")
	for range maxCopies {
		m.copies <- struct{}{}
	}
	if err := m.Attach(t.Context(), "c", []*agentpb.Storage{s}); !errors.Is(err, ErrTooMany) {
		t.Error(err)
	}
	gone(t, s.MountPoint)
	<-m.copies
	attach(t, m, "c", s)
	detach(t, m, "c")
}

// The source is the host's: a link in it stays a link, and what is neither file
// nor directory is left out.
func TestACopyBringsInNothingFromOutside(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	s := following(run)
	write(t, s.Source+"/file", "x")
	if err := errors.Join(os.Symlink("/etc/passwd", s.Source+"/link"), os.Symlink("/etc", s.Source+"/dir"),
		unix.Mkfifo(s.Source+"/pipe", 0o600), unix.Mknod(s.Source+"/null", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3)))); err != nil {
		t.Fatal(err)
	}
	attach(t, m, "c", s)
	for name, want := range map[string]string{"link": "/etc/passwd", "dir": "/etc"} {
		if got, err := os.Readlink(filepath.Join(s.MountPoint, name)); err != nil || got != want {
			t.Errorf("%s: %q (%v)", name, got, err)
		}
	}
	gone(t, s.MountPoint+"/pipe")
	gone(t, s.MountPoint+"/null")
	detach(t, m, "c")
	for what, change := range map[string]func(*agentpb.Storage){
		"elsewhere":        func(s *agentpb.Storage) { s.MountPoint = run + "/sandbox/x" },
		"the root itself":  func(s *agentpb.Storage) { s.MountPoint = run + "/shared/containers/watchable" },
		"beside the root":  func(s *agentpb.Storage) { s.MountPoint = run + "/shared/containers/watchable-not/x" },
		"source outside":   func(s *agentpb.Storage) { s.Source = "/etc" },
		"source by a link": func(s *agentpb.Storage) { s.Source += "/dir" },
		"no source":        func(s *agentpb.Storage) { s.Source += "/absent" },
	} {
		s := following(run)
		change(s)
		if err := m.Attach(t.Context(), "c", []*agentpb.Storage{s}); err == nil {
			t.Errorf("%s: attached", what)
			detach(t, m, "c")
		}
	}
}
