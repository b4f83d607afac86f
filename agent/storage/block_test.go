// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cocoon/agent/device"
	"cocoon/internal/wire/agentpb"
	"cocoon/internal/wire/typespb"
)

// disks finds disks by the addresses that a test gave them, and counts.
type disks map[string]device.Node

func (d disks) Block(_ context.Context, driver, address string) (device.Node, error) {
	if n, ok := d[driver+" "+address]; ok {
		return n, nil
	}
	return device.Node{}, fmt.Errorf("%s %q: %w", driver, address, device.ErrNotFound)
}

func (d disks) Existing(path string) (device.Node, error) {
	if n, ok := d[path]; ok {
		return n, nil
	}
	return device.Node{}, fmt.Errorf("%q: %w", path, device.ErrInvalid)
}

// loopDisk makes a disk of a file.
func loopDisk(t *testing.T, file string) device.Node {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	backing, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer backing.Close()
	for range 20 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Fatal(err)
		}
		path := fmt.Sprintf("/dev/loop%d", n)
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(7, uint32(n)))); err != nil && !errors.Is(err, os.ErrExist) {
				t.Fatal(err)
			}
		}
		disk, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = unix.IoctlSetInt(int(disk.Fd()), unix.LOOP_SET_FD, int(backing.Fd()))
		if errors.Is(err, unix.EBUSY) {
			disk.Close()
			continue // another test was faster
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.IoctlSetInt(int(disk.Fd()), unix.LOOP_CLR_FD, 0); err != nil {
				t.Errorf("release %s: %v", path, err)
			}
			disk.Close()
		})
		return device.Node{Path: path, Type: "b", Major: 7, Minor: int64(n)}
	}
	t.Fatal("no free loop device")
	return device.Node{}
}

// ext4 makes a file with a file system that holds one file.
func ext4(t *testing.T) string {
	t.Helper()
	content := t.TempDir()
	write(t, filepath.Join(content, "hello"), "from the host")
	return ext4Of(t, content)
}

// ext4Of makes a file with a file system that holds a tree.
func ext4Of(t *testing.T, content string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 4<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "mkfs.ext4", "-q", "-d", content, image).CombinedOutput(); err != nil {
		t.Fatalf("make a file system: %v\n%s", err, out)
	}
	return image
}

func disk(run, fstype string, options ...string) *agentpb.Storage {
	return &agentpb.Storage{Driver: "blk", Source: "02/01", Fstype: fstype, Options: options, MountPoint: run + "/sandbox/storage/dm9s"}
}

func TestADiskOfTheHostIsMountedAndReleased(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	node := loopDisk(t, ext4(t))
	m.cfg.Devices = disks{"blk 02/01": node, "scsi 1:2": node, "blk-ccw 0.0.0001": node, "mmioblk /dev/vdx": node, "nvdimm /dev/pmem0": node, node.Path: node}
	for driver, source := range map[string]string{
		"blk": "02/01", "scsi": "1:2", "blk-ccw": "0.0.0001", "mmioblk": "/dev/vdx", "nvdimm": "/dev/pmem0",
	} {
		s := disk(run, "ext4", "ro")
		s.Driver, s.Source = driver, source
		attach(t, m, "c", s)
		if b, err := os.ReadFile(s.MountPoint + "/hello"); err != nil || string(b) != "from the host" {
			t.Errorf("%s: %q (%v)", driver, b, err)
		}
		if err := os.WriteFile(s.MountPoint+"/new", nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: written in spite of ro (%v)", driver, err)
		}
		detach(t, m, "c")
		gone(t, s.MountPoint)
	}
	s := disk(run, "ext4")
	s.Source = node.Path
	attach(t, m, "c", s)
	detach(t, m, "c")
}

func TestTwoContainersShareOneMountOfADisk(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	m.cfg.Devices = disks{"blk 02/01": loopDisk(t, ext4(t))}
	s := disk(run, "ext4")
	s.FsGroup = &agentpb.FSGroup{GroupId: 4242, GroupChangePolicy: typespb.FSGroupChangePolicy_Always}
	attach(t, m, "a", s)
	attach(t, m, "b", s)
	detach(t, m, "a")
	var st unix.Stat_t
	if err := unix.Stat(s.MountPoint+"/hello", &st); err != nil || st.Gid != 4242 {
		t.Errorf("group %d (%v)", st.Gid, err)
	}
	detach(t, m, "b")
	gone(t, s.MountPoint)
}

func TestAStorageOnADiskThatIsNotSoundIsRefused(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	m.cfg.Devices = disks{"blk 02/01": {Path: "/dev/null"}}
	with := func(change func(*agentpb.Storage)) *agentpb.Storage {
		s := disk(run, "ext4")
		change(s)
		return s
	}
	for what, tc := range map[string]struct {
		s    *agentpb.Storage
		want error
	}{
		"no file system":         {disk(run, ""), ErrInvalid},
		"file system of no disk": {disk(run, "overlay"), ErrInvalid},
		"network file system":    {disk(run, "nfs"), ErrInvalid},
		"proc":                   {disk(run, "proc"), ErrInvalid},
		"bind":                   {disk(run, "ext4", "bind"), ErrInvalid},
		"remount":                {disk(run, "ext4", "remount"), ErrInvalid},
		"loop":                   {disk(run, "ext4", "loop"), ErrInvalid},
		"absent":                 {with(func(s *agentpb.Storage) { s.Source = "03" }), device.ErrNotFound},
		"foreign path":           {with(func(s *agentpb.Storage) { s.Source = "/dev/mapper/x" }), ErrInvalid},
		"no block device":        {disk(run, "ext4"), unix.ENOTBLK},
		"option of nobody":       {with(func(s *agentpb.Storage) { s.DriverOptions = []string{"confidential=true"} }), ErrInvalid},
		"key of another kind": {with(func(s *agentpb.Storage) {
			s.DriverOptions = []string{"create_filesystem", "encryption_key=kbs:///a/b/c"}
		}), ErrInvalid},
		"key without file system":  {with(func(s *agentpb.Storage) { s.DriverOptions = []string{"encryption_key=ephemeral"} }), ErrInvalid},
		"new, not encrypted":       {with(func(s *agentpb.Storage) { s.DriverOptions = []string{"create_filesystem"} }), ErrNoEncryption},
		"encrypted, but not by us": {with(func(s *agentpb.Storage) { s.DriverOptions = []string{"create_filesystem", "encryption_key=ephemeral"} }), ErrNoEncryption},
	} {
		if err := m.Attach(t.Context(), "c", []*agentpb.Storage{tc.s}); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", what, err, tc.want)
		}
		gone(t, tc.s.MountPoint)
	}
	m.cfg.Devices = nil
	if err := m.Attach(t.Context(), "c", []*agentpb.Storage{disk(run, "ext4")}); err == nil {
		t.Error("mounted without anything to find disks with")
	}
}

// A kernel that is given a broken file system must say so, and what was there
// before has to work afterwards.
func TestAMalformedFileSystemIsRefusedAndLeavesNothing(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	for what, spoil := range map[string]func(*os.File) error{
		"zeros":             func(f *os.File) error { _, err := f.WriteAt(make([]byte, 1<<20), 0); return err },
		"magic":             func(f *os.File) error { _, err := f.WriteAt([]byte{0, 0}, 1024+56); return err },
		"block size":        func(f *os.File) error { _, err := f.WriteAt([]byte{0xff, 0xff, 0xff, 0xff}, 1024+24); return err },
		"block count":       func(f *os.File) error { _, err := f.WriteAt([]byte{0xff, 0xff, 0xff, 0xff}, 1024+4); return err },
		"feature of nobody": func(f *os.File) error { _, err := f.WriteAt([]byte{0xff, 0xff, 0xff, 0xff}, 1024+96); return err },
		"cut to one sector": func(f *os.File) error { return f.Truncate(512) },
		"garbage everywhere": func(f *os.File) error {
			_, err := io.Copy(f, io.LimitReader(strings.NewReader(strings.Repeat("\xa5", 1<<16)), 1<<16))
			return err
		},
	} {
		image := ext4(t)
		f, err := os.OpenFile(image, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(spoil(f), f.Close()); err != nil {
			t.Fatal(err)
		}
		m.cfg.Devices = disks{"blk 02/01": loopDisk(t, image)}
		for _, fstype := range []string{"ext4", "squashfs", "erofs", "xfs"} {
			s := disk(run, fstype, "ro")
			if err := m.Attach(t.Context(), "c", []*agentpb.Storage{s}); err == nil {
				t.Errorf("%s: mounted as %s", what, fstype)
			}
			gone(t, s.MountPoint)
		}
	}
	attach(t, m, "c", tmpfs(run+"/sandbox/shm"))
	detach(t, m, "c")
}

// vault is a SecureMounter that notes what it was asked for.
type vault struct {
	asked  []string
	undone int
	fail   error
}

func (v *vault) SecureMount(_ context.Context, disk, target string) (func(context.Context) error, error) {
	v.asked = append(v.asked, disk+" "+filepath.Base(target))
	if v.fail != nil {
		return nil, v.fail
	}
	return func(context.Context) error { v.undone++; return nil }, nil
}

func TestADiskIsEncryptedWhereTheHostAsksForIt(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	v := &vault{}
	m.cfg.SecureMount = v
	m.cfg.Devices = disks{"blk 02/01": {Path: "/dev/vdx", Type: "b", Major: 254, Minor: 3}}
	s := disk(run, "ext4", "ro")
	s.DriverOptions = []string{"create_filesystem", "encryption_key=ephemeral"}
	attach(t, m, "c", s)
	if len(v.asked) != 1 || v.asked[0] != "/dev/vdx dm9s" {
		t.Errorf("asked for %q", v.asked)
	}
	detach(t, m, "c")
	gone(t, s.MountPoint)
	if v.undone != 1 {
		t.Errorf("undone %d times", v.undone)
	}
	v.fail = errors.New("no such mapping")
	if err := m.Attach(t.Context(), "c", []*agentpb.Storage{s}); !errors.Is(err, v.fail) {
		t.Error(err)
	}
	gone(t, s.MountPoint)
	s.Fstype = "xfs"
	if err := m.Attach(t.Context(), "c", []*agentpb.Storage{s}); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}
