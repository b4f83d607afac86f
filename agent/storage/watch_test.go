// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

func newMirror(t *testing.T, source string) *mirror {
	t.Helper()
	w := &mirror{path: t.TempDir()}
	var err, err2 error
	w.source, err = os.OpenRoot(source)
	w.target, err2 = os.OpenRoot(w.path)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.remove(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// The host may replace either directory by a link while the copy follows.
func TestACopyDoesNotFollowALinkInPlaceOfItsEnds(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), t.TempDir()
	source := filepath.Join(dir, "source")
	write(t, source+"/file", "one")
	write(t, outside+"/secret", "of the guest")
	w := newMirror(t, source)
	for _, end := range []string{source, w.path} {
		if err := errors.Join(os.Rename(end, end+"-moved"), os.Symlink(outside, end)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, source+"-moved/new", "two")
	if err := w.sync(); err != nil {
		t.Fatal(err)
	}
	has(t, w.path+"-moved/new", "two")
	gone(t, w.path+"-moved/secret")
	list, err := os.ReadDir(outside)
	if err != nil || len(list) != 1 {
		t.Errorf("outside: %v (%v)", list, err)
	}
	if err := os.RemoveAll(w.path + "-moved"); err != nil {
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
	if mounted(t, s.MountPoint) {
		t.Error("the source itself is mounted")
	}
	w := newMirror(t, s.Source)
	if err := w.sync(); err != nil {
		t.Fatal(err)
	}
	configMap(t, s.Source, "..v2", "two")
	if err := os.RemoveAll(filepath.Join(s.Source, "..v1")); err != nil {
		t.Fatal(err)
	}
	if err := w.sync(); err != nil {
		t.Fatal(err)
	}
	has(t, w.path+"/settings", "two")
	gone(t, w.path+"/..v1")
	if link, err := os.Readlink(w.path + "/..data"); err != nil || link != "..v2" {
		t.Errorf("..data leads to %q (%v)", link, err)
	}
	write(t, s.Source+"/..v2/settings", "other")
	if err := os.Chtimes(s.Source+"/..v2/settings", time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := w.sync(); err != nil {
		t.Fatal(err)
	}
	has(t, w.path+"/settings", "other")
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
		if !mounted(t, s.MountPoint) {
			t.Errorf("%s: not mounted", name)
		}
		if _, err := os.Stat(s.MountPoint + "/0"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		detach(t, m, "c")
	}
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
