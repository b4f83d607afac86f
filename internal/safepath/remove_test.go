// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package safepath_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cocoon/internal/safepath"
)

func TestRemoveAllRemovesATreeAndNothingThatItsLinksName(t *testing.T) {
	t.Parallel()
	_, dir := tree(t)
	top := filepath.Dir(dir)
	d, err := os.Open(top)
	must(t, err)
	defer func() { must(t, d.Close()) }()
	must(t, safepath.RemoveAll(d, "root"))
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the tree is still there: %v", err)
	}
	for _, name := range []string{"secret", "dir"} {
		if _, err := os.Lstat(filepath.Join(top, name)); err != nil {
			t.Errorf("%q outside the tree is gone: %v", name, err)
		}
	}
	must(t, safepath.RemoveAll(d, "root"))
}

func TestRemoveAllRemovesATreeDeeperThanAnyPath(t *testing.T) {
	t.Parallel()
	top, err := os.Open(t.TempDir())
	must(t, err)
	defer func() { must(t, top.Close()) }()
	fd, err := unix.Dup(int(top.Fd()))
	must(t, err)
	for range 5000 {
		must(t, unix.Mkdirat(fd, "d", 0o755))
		next, err := unix.Openat(fd, "d", unix.O_PATH, 0)
		must(t, err)
		must(t, unix.Close(fd))
		fd = next
	}
	must(t, unix.Close(fd))
	must(t, safepath.RemoveAll(top, "d"))
	left, err := top.Readdirnames(-1)
	must(t, err)
	if len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestRemoveAllRefusesNamesThatAreNoEntry(t *testing.T) {
	t.Parallel()
	d, err := os.Open(t.TempDir())
	must(t, err)
	defer func() { must(t, d.Close()) }()
	for _, name := range []string{"", ".", ".."} {
		if err := safepath.RemoveAll(d, name); !errors.Is(err, safepath.ErrBadName) {
			t.Errorf("remove %q: %v, want ErrBadName", name, err)
		}
	}
}
