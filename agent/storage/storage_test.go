// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"cocoon/internal/wire/agentpb"
)

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
