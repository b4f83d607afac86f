// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"cocoon/internal/wire/agentpb"
	"cocoon/internal/wire/typespb"
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

func write(t *testing.T, p, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestAMountPointIsReleasedAfterItsLastUser(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	p := run + "/v"
	for _, owner := range []string{"a", "b", "c"} {
		attach(t, m, owner, tmpfs(p))
	}
	for _, owner := range []string{"a", "b"} {
		detach(t, m, owner)
		if !mounted(t, p) {
			t.Fatalf("gone after %s", owner)
		}
	}
	detach(t, m, "b") // once more does nothing
	if !mounted(t, p) {
		t.Fatal("a second detach took the mount of another container")
	}
	detach(t, m, "c")
	gone(t, p)
}

func TestAnotherStorageDoesNotTakeAMountPoint(t *testing.T) {
	t.Parallel()
	f := &fakePuller{}
	m, run := newManager(t, f)
	write(t, run+"/evil/bin/sh", "host's program")
	attach(t, m, "c1", &agentpb.Storage{Driver: "bind", Source: run + "/evil", MountPoint: run + "/c2/rootfs"})
	image := &agentpb.Storage{
		Driver: DriverImagePull, Source: "example.com/app:1", MountPoint: run + "/c2/rootfs", DriverOptions: []string{`image_guest_pull={}`},
	}
	for name, s := range map[string]*agentpb.Storage{
		"an image":       image,
		"another driver": tmpfs(run + "/c2/rootfs"),
		"another source": {Driver: "bind", Source: run, MountPoint: run + "/c2/rootfs"},
	} {
		if err := m.Attach(t.Context(), "c2", []*agentpb.Storage{s}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	detach(t, m, "c1")
	attach(t, m, "c2", image)
	if err := m.Attach(t.Context(), "c2", []*agentpb.Storage{image}); !errors.Is(err, ErrInvalid) || len(f.pulls) != 1 {
		t.Errorf("the same image twice: %v, %d pulls", err, len(f.pulls))
	}
}

func TestASharedStorageStaysUntilTheEnd(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	s := tmpfs(run + "/v")
	s.Shared = true
	attach(t, m, "a", s)
	detach(t, m, "a")
	if !mounted(t, run+"/v") {
		t.Fatal("the shared storage is gone")
	}
	attach(t, m, "b", s)
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	gone(t, run+"/v")
}

func TestAListIsAttachedAsAWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	attach(t, m, "other", tmpfs(run+"/kept"))
	err := m.Attach(t.Context(), "c1", []*agentpb.Storage{
		tmpfs(run + "/one"), tmpfs(run + "/kept"), tmpfs(run + "/two"), {Driver: "nonesuch", MountPoint: run + "/x"},
	})
	if !errors.Is(err, ErrUnknownDriver) || !strings.Contains(err.Error(), "Failed to find the storage handler nonesuch") {
		t.Fatalf("error %v", err)
	}
	gone(t, run+"/one")
	gone(t, run+"/two")
	if !mounted(t, run+"/kept") {
		t.Error("the roll-back took another container's storage")
	}
	if len(m.owners["c1"]) != 0 || m.entries[run+"/kept"].refs != 1 {
		t.Errorf("books: %v, %d uses", m.owners["c1"], m.entries[run+"/kept"].refs)
	}
}

func TestConcurrentUsersShareOneMount(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	p := run + "/v"
	owners := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	for range 20 {
		var wg sync.WaitGroup
		for _, o := range owners {
			wg.Go(func() {
				if err := m.Attach(context.Background(), o, []*agentpb.Storage{tmpfs(p)}); err != nil {
					t.Errorf("attach: %v", err)
				}
				if err := m.Detach(context.Background(), o); err != nil {
					t.Errorf("detach: %v", err)
				}
			})
		}
		wg.Wait()
		gone(t, p)
	}
	if len(m.entries)+len(m.owners)+len(m.order) != 0 {
		t.Errorf("books are not empty: %v %v %v", m.entries, m.owners, m.order)
	}
}

func TestHostileStoragesAreRefused(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, &fakePuller{})
	secret := t.TempDir()
	if err := os.Symlink(secret, run+"/link"); err != nil {
		t.Fatal(err)
	}
	pull := func(point string, options ...string) *agentpb.Storage {
		return &agentpb.Storage{Driver: DriverImagePull, Source: "example.com/a", MountPoint: point, DriverOptions: options}
	}
	many := make([]*agentpb.Storage, maxStorages+1)
	for name, list := range map[string][]*agentpb.Storage{
		"nil":                     {nil},
		"too many":                many,
		"no driver":               {{MountPoint: run + "/x"}},
		"no mount point":          {tmpfs("")},
		"the root":                {tmpfs("/")},
		"the run directory":       {tmpfs(run)},
		"outside":                 {tmpfs("/etc/evil")},
		"a sibling":               {tmpfs(run + "x/y")},
		"dots":                    {tmpfs(run + "/../y")},
		"relative":                {tmpfs("y")},
		"NUL":                     {tmpfs(run + "/a\x00b")},
		"loop":                    {tmpfs(run+"/x", "loop")},
		"unknown tmpfs option":    {tmpfs(run+"/x", "lowerdir=/")},
		"bind as tmpfs":           {tmpfs(run+"/x", "bind")},
		"remount as tmpfs":        {tmpfs(run+"/x", "remount")},
		"bad mode":                {{Driver: "local", MountPoint: run + "/x", Options: []string{"mode=99"}}},
		"huge mode":               {{Driver: "local", MountPoint: run + "/x", Options: []string{"mode=177777"}}},
		"bad group":               {tmpfs(run+"/x", "fsgid=-1")},
		"wrong type":              {{Driver: "ephemeral", Fstype: "proc", MountPoint: run + "/x"}},
		"hugetlbfs":               {{Driver: "ephemeral", Fstype: "hugetlbfs", MountPoint: run + "/x"}},
		"bind of the guest":       {{Driver: "bind", Source: "/etc", MountPoint: run + "/x"}},
		"bind with data":          {{Driver: "bind", Source: run, MountPoint: run + "/x", Options: []string{"size=1"}}},
		"overlay of the guest":    {{Driver: "overlayfs", MountPoint: run + "/x", Options: []string{"lowerdir=/etc:/usr"}}},
		"overlay with an escape":  {{Driver: "overlayfs", MountPoint: run + "/x", Options: []string{`lowerdir=` + run + `/a\:b`}}},
		"overlay through a link":  {{Driver: "overlayfs", MountPoint: run + "/x", Options: []string{"lowerdir=" + run + "/link"}}},
		"overlay with odd option": {{Driver: "overlayfs", MountPoint: run + "/x", Options: []string{"context=x"}}},
		"overlay of no container": {{Driver: "overlayfs", MountPoint: run + "/x", Options: []string{overlayRW}}},
		"overlay directory":       {{Driver: "overlayfs", MountPoint: run + "/x", DriverOptions: []string{overlayCreate + "/etc/made"}}},
		"image of the sandbox":    {pull(run+"/c/rootfs", `image_guest_pull={}`)},
		"image elsewhere":         {pull(run+"/other", `image_guest_pull={}`)},
		"image without metadata":  {pull(run + "/c/rootfs")},
		"image with bad metadata": {pull(run+"/c/rootfs", `image_guest_pull={"metadata":[]}`)},
	} {
		owner := ""
		if strings.HasPrefix(name, "image ") && name != "image of the sandbox" {
			owner = "c"
		}
		if err := m.Attach(t.Context(), owner, list); err == nil {
			t.Errorf("%s: was attached", name)
		}
		if len(m.entries)+len(m.owners) != 0 {
			t.Fatalf("%s: books are not empty", name)
		}
	}
	if list, err := os.ReadDir(secret); err != nil || len(list) != 0 {
		t.Errorf("something was made outside the run directory: %v (%v)", list, err)
	}
}

func TestALinkDoesNotLeadOutOfTheRunDirectory(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	outside := t.TempDir()
	write(t, outside+"/secret", "secret")
	if err := errors.Join(os.Symlink(outside, run+"/abs"), os.Symlink("../../../../../../../.."+outside, run+"/up")); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{"/abs", "/up"} {
		err := m.Attach(t.Context(), "c1", []*agentpb.Storage{{Driver: "bind", Source: run + link, MountPoint: run + "/dst"}})
		if err == nil {
			if _, err := os.Stat(run + "/dst/secret"); err == nil {
				t.Errorf("%s brought in a directory from outside", link)
			}
			detach(t, m, "c1")
		}
		attach(t, m, "c2", tmpfs(run+link+"/mnt"))
		if _, err := os.Lstat(outside + "/mnt"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a mount point was made outside (%v)", link, err)
		}
		detach(t, m, "c2")
	}
}

// fakePuller makes a directory, or fails, and records what it was asked.
type fakePuller struct {
	mu       sync.Mutex
	fail     error
	noRoot   bool
	pulls    []PullRequest
	released []string
}

func (f *fakePuller) Pull(_ context.Context, r PullRequest) (PullResult, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pulls = append(f.pulls, r)
	if f.fail != nil || f.noRoot {
		return PullResult{}, f.fail
	}
	return PullResult{Digest: "sha256:00"}, os.Mkdir(r.Bundle+"/rootfs", 0o755)
}

func (f *fakePuller) Release(_ context.Context, bundle string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.released = append(f.released, bundle)
	return nil
}

func TestAnImageIsPulledForAContainerAndReleased(t *testing.T) {
	t.Parallel()
	f := &fakePuller{}
	m, run := newManager(t, f)
	s := &agentpb.Storage{
		Driver: DriverImagePull, Source: "example.com/app:1", MountPoint: run + "/c1/rootfs",
		DriverOptions: []string{`image_guest_pull={"metadata":{"k":"v"}}`},
	}
	attach(t, m, "c1", s)
	want := PullRequest{Image: "example.com/app:1", Bundle: run + "/c1", Metadata: map[string]string{"k": "v"}}
	if len(f.pulls) != 1 || f.pulls[0].Image != want.Image || f.pulls[0].Bundle != want.Bundle || f.pulls[0].Metadata["k"] != "v" {
		t.Errorf("asked for %+v", f.pulls)
	}
	detach(t, m, "c1")
	if !slices.Equal(f.released, []string{run + "/c1"}) {
		t.Errorf("released %q", f.released)
	}
	f.noRoot = true
	if err := os.RemoveAll(run + "/c1"); err != nil {
		t.Fatal(err)
	}
	if err := m.Attach(t.Context(), "c1", []*agentpb.Storage{s}); err == nil || len(f.released) != 2 {
		t.Errorf("a puller that leaves no root: %v, %d releases", err, len(f.released))
	}
	f.fail = errors.New("Failed to pull image X: tls: unknown authority") //nolint:staticcheck // as the real one says it
	err := m.Attach(t.Context(), "c1", []*agentpb.Storage{s})
	if !errors.Is(err, f.fail) || !strings.Contains(err.Error(), "Failed to pull image") {
		t.Errorf("error %v", err)
	}
}

func TestThePauseRootHoldsOnlyThePauseProgram(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	attach(t, m, "pod", &agentpb.Storage{
		Driver: DriverImagePull, Source: "pause", MountPoint: run + "/pod/rootfs",
		DriverOptions: []string{`image_guest_pull={"metadata":{"io.kubernetes.cri-o.ContainerType":"sandbox"}}`},
	})
	list, err := os.ReadDir(run + "/pod/rootfs")
	if err != nil || len(list) != 1 || list[0].Name() != "pause" {
		t.Fatalf("root holds %v (%v)", list, err)
	}
	if err := os.WriteFile(run+"/pod/rootfs/pause", nil, 0o755); !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.ETXTBSY) {
		t.Errorf("the program can be written: %v", err)
	}
	var fs unix.Statfs_t
	want := int64(unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV)
	if err := unix.Statfs(run+"/pod/rootfs/pause", &fs); err != nil || fs.Flags&want != want {
		t.Errorf("mounted with flags %#x (%v)", fs.Flags, err)
	}
	detach(t, m, "pod")
	gone(t, run+"/pod/rootfs")
}

func TestOptionsAreToldApart(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		items []string
		want  Options
	}{
		{nil, Options{}},
		{[]string{"defaults", "rw"}, Options{}},
		{[]string{"ro", "nosuid"}, Options{Flags: unix.MS_RDONLY | unix.MS_NOSUID}},
		{[]string{"ro", "rw"}, Options{}},
		{[]string{"ro,noexec,size=1"}, Options{Flags: unix.MS_RDONLY | unix.MS_NOEXEC, Data: []string{"size=1"}}},
		{[]string{"rbind", "rslave"}, Options{Flags: unix.MS_BIND | unix.MS_REC, Propagation: unix.MS_SLAVE | unix.MS_REC}},
		{[]string{"a=b", "c"}, Options{Data: []string{"a=b", "c"}}},
	} {
		got, err := ParseOptions(tc.items)
		if err != nil || got.Flags != tc.want.Flags || got.Propagation != tc.want.Propagation || !slices.Equal(got.Data, tc.want.Data) {
			t.Errorf("%q: %+v (%v), want %+v", tc.items, got, err, tc.want)
		}
	}
	for _, bad := range [][]string{{"loop"}, {"a,loop"}, {"a\x00b"}, {strings.Repeat("a", os.Getpagesize())}, slices.Repeat([]string{"abc"}, os.Getpagesize()/4+1)} {
		if _, err := ParseOptions(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.20q: %v, want ErrInvalid", bad, err)
		}
	}
}

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

func FuzzParseOptions(f *testing.F) {
	for _, s := range []string{"ro,nosuid", "size=1\nmode=1777", "loop", "rbind\nrslave\n\x00", ",,,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		o, err := ParseOptions(strings.Split(text, "\n"))
		if err != nil {
			return
		}
		total := 0
		for _, w := range o.Data {
			if _, isFlag := flagOf(w); isFlag || w == "" || w == "loop" || strings.ContainsAny(w, ",\x00") {
				t.Fatalf("data word %q", w)
			}
			total += len(w) + 1
		}
		if total > os.Getpagesize() {
			t.Fatalf("%d bytes of data", total)
		}
	})
}

func FuzzParsePullOption(f *testing.F) {
	f.Add(`image_guest_pull={"metadata":{"io.kubernetes.cri.container-type":"sandbox"}}`)
	f.Add(`image_guest_pull={"metadata":null}`)
	f.Add(`image_guest_pull=`)
	f.Add(`other`)
	f.Fuzz(func(t *testing.T, option string) {
		m, err := ParsePullOption([]string{option})
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Fatalf("error without identity: %v", err)
		}
		if err != nil && m != nil {
			t.Fatal("metadata beside an error")
		}
	})
}
