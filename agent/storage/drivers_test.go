// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cocoon/internal/wire/agentpb"
	"cocoon/internal/wire/typespb"
)

func TestAnInMemoryVolumeKeepsItsLimits(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	p := run + "/sandbox/shm"
	attach(t, m, "", tmpfs(p, "noexec", "nosuid,nodev", "mode=1777", "size=1048576", "fsgid=77"))
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Statfs(p, &fs), unix.Stat(p, &st)); err != nil {
		t.Fatal(err)
	}
	if size := int64(fs.Blocks) * fs.Bsize; size != 1<<20 {
		t.Errorf("size %d, want 1 MiB", size)
	}
	if want := int64(unix.ST_NOEXEC | unix.ST_NOSUID | unix.ST_NODEV); fs.Flags&want != want {
		t.Errorf("flags %#x lack %#x", fs.Flags, want)
	}
	if st.Mode&0o7777 != 0o3777 || st.Gid != 77 {
		t.Errorf("root has mode %#o and group %d, want 03777 and 77", st.Mode&0o7777, st.Gid)
	}
	if err := m.Remount(t.Context(), []*agentpb.Storage{tmpfs(p, "remount", "size=2097152")}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Statfs(p, &fs); err != nil || int64(fs.Blocks)*fs.Bsize != 2<<20 {
		t.Errorf("after the remount: %d blocks (%v)", fs.Blocks, err)
	}
	detach(t, m, "")
	gone(t, p)
}

func TestOnlyAttachedInMemoryVolumesAreRemounted(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	for name, s := range map[string]*agentpb.Storage{
		"not attached": tmpfs(run+"/x", "size=4096"),
		"other driver": {Driver: "local", MountPoint: run + "/x", Options: []string{"size=4096"}},
		"outside":      tmpfs("/tmp", "size=4096"),
	} {
		if err := m.Remount(t.Context(), []*agentpb.Storage{s}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if err := m.Remount(t.Context(), []*agentpb.Storage{tmpfs(run + "/x")}); err != nil {
		t.Errorf("a storage without options: %v", err)
	}
}

func TestALocalVolumeIsADirectoryThatStays(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	p := run + "/shared/containers/pod/rootfs/local/v"
	s := &agentpb.Storage{Driver: "local", Source: "local", MountPoint: p, Options: []string{"mode=0770", "fsgid=5"}}
	attach(t, m, "c1", s)
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil || st.Mode&0o7777 != 0o2770 || st.Gid != 5 {
		t.Fatalf("mode %#o group %d (%v), want 02770 and 5", st.Mode&0o7777, st.Gid, err)
	}
	detach(t, m, "c1")
	if _, err := os.Stat(p); err != nil {
		t.Error(err)
	}
}

func TestABindShowsFilesAndDirectories(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	write(t, run+"/src/f", "content")
	attach(t, m, "c1",
		&agentpb.Storage{Driver: "bind", Source: run + "/src", MountPoint: run + "/dst/dir", Options: []string{"ro", "rslave"}},
		&agentpb.Storage{Driver: "bind", Source: run + "/src/f", MountPoint: run + "/dst/file"})
	for _, p := range []string{"/dst/dir/f", "/dst/file"} {
		if b, err := os.ReadFile(run + p); err != nil || string(b) != "content" {
			t.Errorf("%s: %q (%v)", p, b, err)
		}
	}
	if err := os.WriteFile(run+"/dst/dir/f", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("write through a read-only bind: %v", err)
	}
	if !mounted(t, run+"/dst/dir") {
		t.Error("the directory is not mounted")
	}
	detach(t, m, "c1")
	gone(t, run+"/dst/dir")
	if mounted(t, run+"/dst/file") {
		t.Error("the file is still mounted")
	}
}

func TestAnOverlayGetsItsOwnUpperDirectory(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	write(t, run+"/lower/f", "lower")
	// The upper directory needs a file system that overlay accepts.
	attach(t, m, "c1", tmpfs(run+"/c1"))
	attach(t, m, "c1", &agentpb.Storage{
		Driver: "overlayfs", Source: "overlay", Fstype: "overlay", MountPoint: run + "/c1/merged",
		DriverOptions: []string{overlayCreate + run + "/made"},
		Options:       []string{overlayRW, "lowerdir=" + run + "/made:" + run + "/lower"},
	})
	if b, err := os.ReadFile(run + "/c1/merged/f"); err != nil || string(b) != "lower" {
		t.Fatalf("%q (%v)", b, err)
	}
	write(t, run+"/c1/merged/g", "upper")
	if b, err := os.ReadFile(run + "/c1/upper/g"); err != nil || string(b) != "upper" {
		t.Errorf("%q (%v)", b, err)
	}
	gone(t, run+"/lower/g")
	detach(t, m, "c1")
	gone(t, run+"/c1")
}

func TestTheGroupOfAVolumeIsAppliedToAllButLinks(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	outside := filepath.Join(t.TempDir(), "outside")
	write(t, outside, "x")
	write(t, run+"/src/d/f", "x")
	if err := os.Symlink(outside, run+"/src/l"); err != nil {
		t.Fatal(err)
	}
	s := &agentpb.Storage{
		Driver: "bind", Source: run + "/src", MountPoint: run + "/dst",
		FsGroup: &agentpb.FSGroup{GroupId: 4242, GroupChangePolicy: typespb.FSGroupChangePolicy_OnRootMismatch},
	}
	attach(t, m, "c1", s)
	for p, mode := range map[string]uint32{"": 0o2775, "/d": 0o2775, "/d/f": 0o664} {
		var st unix.Stat_t
		if err := unix.Stat(run+"/src"+p, &st); err != nil || st.Gid != 4242 || st.Mode&0o7777 != mode {
			t.Errorf("%q: group %d mode %#o (%v), want 4242 and %#o", p, st.Gid, st.Mode&0o7777, err, mode)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(outside, &st); err != nil || st.Gid == 4242 {
		t.Errorf("a link was followed out of the volume (%v)", err)
	}
	detach(t, m, "c1")
	// The root matches, so a second time nothing is walked.
	write(t, run+"/src/late", "x")
	attach(t, m, "c1", s)
	if err := unix.Stat(run+"/src/late", &st); err != nil || st.Mode&0o020 != 0 {
		t.Errorf("the volume was walked again (%v)", err)
	}
}

func TestARemountTakesNoProtectionAway(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	shm := tmpfs(run+"/sandbox/shm", "nosuid", "nodev", "noexec", "size=1048576")
	write(t, run+"/shared/containers/x/file", "x")
	bound := &agentpb.Storage{Driver: "bind", Source: run + "/shared/containers/x", Fstype: "bind", MountPoint: run + "/c/x", Options: []string{"ro", "nosuid", "nodev"}}
	attach(t, m, "c", shm, bound)
	flags := func(p string) int64 {
		var st unix.Statfs_t
		if err := unix.Statfs(p, &st); err != nil {
			t.Fatal(err)
		}
		return st.Flags & (unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC)
	}
	before := [2]int64{flags(shm.MountPoint), flags(bound.MountPoint)}
	if err := m.Remount(t.Context(), []*agentpb.Storage{tmpfs(shm.MountPoint, "remount", "size=2097152")}); err != nil {
		t.Fatal(err)
	}
	if err := m.Remount(t.Context(), []*agentpb.Storage{tmpfs(bound.MountPoint, "remount", "rw,size=2097152")}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a bind mount was remounted: %v", err)
	}
	if after := [2]int64{flags(shm.MountPoint), flags(bound.MountPoint)}; after != before {
		t.Errorf("flags %x became %x", before, after)
	}
	detach(t, m, "c")
}
