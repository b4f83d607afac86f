// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"

	"cocoon/internal/wire/agentpb"
)

// stores notes the disks that are put to use.
type stores struct {
	mu   sync.Mutex
	used []string
	fail error
}

func (s *stores) use(_ context.Context, disk string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = append(s.used, filepath.Base(disk))
	return s.fail
}

func storeGuest(t *testing.T) (*guest, *stores) {
	t.Helper()
	s := &stores{}
	return newGuest(t, guestOptions{change: func(d *Deps) { d.Devices, d.TrustStore = fakeMachine(t), s.use }}), s
}

// offering is a container that offers the disk at a PCI path as image store.
func (g *guest) offering(id, path string) *agentpb.CreateContainerRequest {
	r := g.container(id, "sh", "-c", "ls /dev/trusted_store 2>/dev/null; echo end")
	r.Devices = []*agentpb.Device{{Type: "blk", Id: path, ContainerPath: trustedStore}}
	r.OCI.Linux.Devices = []*agentpb.LinuxDevice{{Path: trustedStore, Type: "b", Major: 8}}
	return r
}

func TestATrustedStoreIsPutToUseOnceAndKeptFromTheContainers(t *testing.T) {
	t.Parallel()
	g, s := storeGuest(t)
	var all sync.WaitGroup
	for _, id := range []string{"first", "second", "third"} {
		all.Go(func() {
			if _, err := g.CreateContainer(limited(t), g.offering(id, "02/01")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if !slices.Equal(s.used, []string{"vda"}) {
		t.Errorf("put to use: %q", s.used)
	}
	if _, err := g.StartContainer(limited(t), &agentpb.StartContainerRequest{ContainerId: "first"}); err != nil {
		t.Fatal(err)
	}
	if got := g.output(t, "first", ""); got != "end\n" {
		t.Errorf("the container has the disk: %q", got)
	}
	_, err := g.CreateContainer(limited(t), g.offering("other", "02/02"))
	wantStatus(t, err, codes.InvalidArgument, "the pod has another disk for it")
}

func TestATrustedStoreThatCannotBeUsedStopsTheContainer(t *testing.T) {
	t.Parallel()
	g, s := storeGuest(t)
	s.fail = errors.New("the disk is broken")
	_, err := g.CreateContainer(limited(t), g.offering("stopped", "02/01"))
	wantStatus(t, err, codes.Internal, "trusted image store: the disk is broken")
	if n := g.puller.mounted(); n != 0 {
		t.Errorf("%d images were pulled all the same", n)
	}
	s.fail = nil
	g.created(t, g.offering("stopped", "02/02"))
	if !slices.Equal(s.used, []string{"vda", "vdb"}) {
		t.Errorf("put to use: %q", s.used)
	}
	r := g.offering("missing", "02/02")
	r.Devices = nil
	_, err = g.CreateContainer(limited(t), r)
	wantStatus(t, err, codes.InvalidArgument, "no device of the request is /dev/trusted_store")
}

func TestAGuestThatEncryptsNothingTakesNoTrustedStore(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{change: func(d *Deps) { d.Devices = fakeMachine(t) }})
	_, err := g.CreateContainer(limited(t), g.offering("unsupported", "02/01"))
	wantStatus(t, err, codes.Unimplemented, "trusted image store")
}
