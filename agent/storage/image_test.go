// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"cocoon/internal/wire/agentpb"
)

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
