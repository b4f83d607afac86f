// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"cocoon/internal/wire/agentpb"
)

func TestRemovalTouchesNothingOnAMount(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	attach(t, m, "a", tmpfs(run+"/deep/er/v"))
	write(t, run+"/deep/er/v/data", "kept")
	write(t, run+"/deep/other", "goes")
	write(t, run+"/src", "file")
	attach(t, m, "a", &agentpb.Storage{Driver: "bind", Source: run + "/src", MountPoint: run + "/file/f"})
	for _, dir := range []string{run + "/deep", run + "/deep/er/v", run + "/file", run + "/file/f"} {
		if err := RemoveTree(dir); !errors.Is(err, ErrMounted) {
			t.Errorf("%s: %v, want ErrMounted", dir, err)
		}
	}
	if b, err := os.ReadFile(run + "/deep/er/v/data"); err != nil || string(b) != "kept" {
		t.Errorf("%q (%v)", b, err)
	}
	gone(t, run+"/deep/other")
}

func TestRemovalFollowsNoLink(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), t.TempDir()
	write(t, outside+"/kept", "x")
	write(t, dir+"/tree/sub/f", "x")
	if err := errors.Join(os.Symlink(outside, dir+"/tree/sub/l"), os.Symlink(outside, dir+"/link")); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/tree", "/link", "/absent", "/no/parent"} {
		if err := RemoveTree(dir + p); err != nil {
			t.Error(err)
		}
		gone(t, dir+p)
	}
	if _, err := os.Stat(outside + "/kept"); err != nil {
		t.Error(err)
	}
}

func TestRemovalOfAVeryDeepTree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/top", 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir+"/top", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 3000 { // far deeper than a path can name
		if err := unix.Mkdirat(fd, "d", 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, "d", unix.O_RDONLY, 0)
		if err := errors.Join(err, unix.Close(fd)); err != nil {
			t.Fatal(err)
		}
		fd = next
	}
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	if err := RemoveTree(dir + "/top"); err != nil {
		t.Fatal(err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Errorf("left behind: %v (%v)", list, err)
	}
}
