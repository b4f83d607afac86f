// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cocoon/internal/wire/agentpb"
)

// newManager returns a manager below a temporary run directory, and checks at
// the end of the test that no mount is left.
func newManager(t *testing.T, p Puller) (*Manager, string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounts need root")
	}
	run := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(run, 0o755); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m := New(Config{Run: run, PauseBinary: exe, Puller: p, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := RemoveTree(run); err != nil {
			t.Error(err)
		}
	})
	return m, run
}

func tmpfs(point string, options ...string) *agentpb.Storage {
	return &agentpb.Storage{Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", Options: options, MountPoint: point}
}

func attach(t *testing.T, m *Manager, owner string, list ...*agentpb.Storage) {
	t.Helper()
	if err := m.Attach(t.Context(), owner, list); err != nil {
		t.Fatal(err)
	}
}

func detach(t *testing.T, m *Manager, owner string) {
	t.Helper()
	if err := m.Detach(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
}

// mounted tells whether p is a mount point. The kernel's table of mounts is no
// help: entries are missed while other tests mount and unmount.
func mounted(t *testing.T, p string) bool {
	t.Helper()
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, p, unix.AT_SYMLINK_NOFOLLOW, 0, &st); err != nil {
		return false
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

func gone(t *testing.T, p string) {
	t.Helper()
	if _, err := os.Lstat(p); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left behind (%v)", p, err)
	}
}

func write(t *testing.T, p, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}
