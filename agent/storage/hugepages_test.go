// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/internal/wire/agentpb"
)

// hugeSys makes a sysfs with one size of huge pages.
func hugeSys(t *testing.T, had string) (sys, file string) {
	t.Helper()
	sys = t.TempDir()
	file = filepath.Join(sys, "kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
	write(t, file, had)
	return sys, file
}

func hugeVolume(run, options string) *agentpb.Storage {
	return &agentpb.Storage{Driver: "ephemeral", Source: "nodev", Fstype: "hugetlbfs", Options: []string{options}, MountPoint: run + "/sandbox/ephemeral/huge"}
}

func count(t *testing.T, file, want string) {
	t.Helper()
	if b, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(b)) != want {
		t.Errorf("%s pages are reserved (%v), want %s", b, err, want)
	}
}

func TestAVolumeOfHugePagesAddsItsPagesAndGivesThemBack(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	sys, file := hugeSys(t, "7\n")
	m.cfg.Sys = sys
	s := hugeVolume(run, "pagesize=2097152,size=8388608")
	attach(t, m, "c", s)
	count(t, file, "11")
	if !mounted(t, s.MountPoint) {
		t.Error("not mounted")
	}
	detach(t, m, "c")
	count(t, file, "7")
	gone(t, s.MountPoint)
}

func TestAPageSizeThatTheKernelDoesNotHaveIsAnError(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	m.cfg.Sys, _ = hugeSys(t, "0")
	file := filepath.Join(m.cfg.Sys, "kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	s := hugeVolume(run, "pagesize=2097152,size=8388608")
	if err := m.Attach(t.Context(), "c", []*agentpb.Storage{s}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a page size that the kernel does not have: %v", err)
	}
	gone(t, s.MountPoint)
}

func TestOptionsOfHugePagesThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	sys, file := hugeSys(t, "7")
	m.cfg.Sys = sys
	for _, options := range []string{
		"", "pagesize=2097152", "size=8388608", "pagesize=0,size=8388608", "pagesize=1,size=8", "pagesize=2097152,size=1", "pagesize=2097152,size=0",
		"pagesize=2M,size=8M", "pagesize=2097152,size=-2097152", "pagesize=2097152,size=99999999999999999999", "pagesize=1024,size=1099511627776",
		"pagesize=2097152,size=8388608,size=8388608", "pagesize=2097152,size=8388608,evil=1", "pagesize=../../2048,size=8388608",
	} {
		s := hugeVolume(run, options)
		if err := m.Attach(t.Context(), "c", []*agentpb.Storage{s}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", options, err)
		}
		gone(t, s.MountPoint)
	}
	count(t, file, "7")
}

func TestASharedFileSystemThatIsNotSoundIsRefused(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	point := run + "/shared/containers"
	for what, s := range map[string]*agentpb.Storage{
		"no tag":       {Fstype: "virtiofs"},
		"long tag":     {Fstype: "virtiofs", Source: strings.Repeat("k", maxTag+1)},
		"path":         {Fstype: "virtiofs", Source: "/dev/vda"},
		"list":         {Fstype: "virtiofs", Source: "a,b"},
		"other type":   {Fstype: "9p", Source: "kataShared"},
		"bind":         {Fstype: "virtiofs", Source: "kataShared", Options: []string{"bind"}},
		"other option": {Fstype: "virtiofs", Source: "kataShared", Options: []string{"rootmode=40000"}},
		"loop":         {Fstype: "virtiofs", Source: "kataShared", Options: []string{"loop"}},
	} {
		s.Driver, s.MountPoint = "virtio-fs", point
		if err := m.Attach(t.Context(), "", []*agentpb.Storage{s}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// No device of this machine has the tag: only the kernel can say so.
	s := &agentpb.Storage{Driver: "virtio-fs", Fstype: "virtiofs", Source: "kataShared", Options: []string{"nodev", "dax"}, MountPoint: point}
	if err := m.Attach(t.Context(), "", []*agentpb.Storage{s}); err == nil || errors.Is(err, ErrInvalid) {
		t.Errorf("a tag without a device: %v", err)
	}
}
