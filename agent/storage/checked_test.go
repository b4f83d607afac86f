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

	"cocoon/agent/device"
	"cocoon/internal/wire/agentpb"
)

// checkedLayers is a manager with one partition that a kernel checks.
func checkedLayers(t *testing.T) (m *Manager, c *checker, root func(id string) *agentpb.Storage) {
	t.Helper()
	m, run := newManager(t, nil)
	disk := loopDisk(t, ext4(t))
	c = &checker{node: disk.Path}
	m.cfg.Mapper = c
	m.cfg.Devices = disks{"blk 02/01": disk, disk.Path + " p2": disk}
	return m, c, func(id string) *agentpb.Storage {
		s := lower(run, verified()...)
		s.MountPoint = run + "/" + id + "/rootfs"
		return s
	}
}

func TestContainersShareALayerThatIsChecked(t *testing.T) {
	t.Parallel()
	m, c, root := checkedLayers(t)
	attach(t, m, "a", root("a"))
	attach(t, m, "b", root("b"))
	if len(c.made) != 1 {
		t.Fatalf("%d devices were made", len(c.made))
	}
	before := len(c.removed)
	detach(t, m, "a")
	if len(c.removed) != before {
		t.Fatal("the device was removed with a user left")
	}
	has(t, root("b").MountPoint+"/hello", "from the host")
	attach(t, m, "a", root("a"))
	detach(t, m, "b")
	has(t, root("a").MountPoint+"/hello", "from the host")
	detach(t, m, "a")
	if len(c.made) != 1 || len(c.removed) != before+1 || len(m.checked.all) != 0 {
		t.Errorf("made %d times, removed %q, %d in use", len(c.made), c.removed, len(m.checked.all))
	}
}

func TestManyContainersTakeAndLeaveOneLayerAtOnce(t *testing.T) {
	t.Parallel()
	m, c, root := checkedLayers(t)
	var wg sync.WaitGroup
	for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
		wg.Go(func() {
			for range 5 {
				if err := m.Attach(context.Background(), id, []*agentpb.Storage{root(id)}); err != nil {
					t.Error(err)
					return
				}
				if _, err := os.Stat(root(id).MountPoint + "/hello"); err != nil {
					t.Error(err)
				}
				if err := m.Detach(context.Background(), id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if len(m.checked.all) != 0 || len(c.removed) != 2*len(c.made) {
		t.Errorf("made %d times, removed %d times, %d in use", len(c.made), len(c.removed), len(m.checked.all))
	}
}

func TestALayerIsNotSharedUnderOtherParameters(t *testing.T) {
	t.Parallel()
	m, c, root := checkedLayers(t)
	attach(t, m, "a", root("a"))
	other := root("b")
	other.Options = append(slices.Clone(other.Options), "X-kata.dmverity.salt=abab")
	err := m.Attach(t.Context(), "b", []*agentpb.Storage{other})
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "other dm-verity parameters") {
		t.Error(err)
	}
	gone(t, other.MountPoint)
	if len(c.made) != 1 || m.checked.all[c.names[0]].users != 1 {
		t.Errorf("made %d times, %+v", len(c.made), m.checked.all)
	}
	has(t, root("a").MountPoint+"/hello", "from the host")
	detach(t, m, "a")
}

func TestAFailureOfTheKernelKeepsTheCountOfALayer(t *testing.T) {
	t.Parallel()
	m, c, root := checkedLayers(t)
	// A device of the same name is on its way out.
	c.busy = 3
	attach(t, m, "a", root("a"))
	if c.busy != 0 || len(c.removed) != 4 {
		t.Errorf("busy %d times more, removed %q", c.busy, c.removed)
	}
	c.stuck = 1
	if err := m.Detach(t.Context(), "a"); !errors.Is(err, unix.ENOMEM) {
		t.Errorf("a device that stays: %v", err)
	}
	detach(t, m, "a")
	if len(m.checked.all) != 0 {
		t.Errorf("%+v is in use", m.checked.all)
	}
	c.busy = 1 << 30
	ctx, cancel := context.WithTimeout(t.Context(), 3*checkedLook)
	defer cancel()
	if err := m.Attach(ctx, "a", []*agentpb.Storage{root("a")}); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a device that does not go: %v", err)
	}
	c.busy, c.fail = 0, device.ErrNotFound
	if err := m.Attach(t.Context(), "a", []*agentpb.Storage{root("a")}); !errors.Is(err, device.ErrNotFound) {
		t.Error(err)
	}
	gone(t, root("a").MountPoint)
	// Whoever waits for the turn of another ends with its own time.
	if err := m.checked.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := m.Attach(ended, "a", []*agentpb.Storage{root("a")}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	m.checked.unlock()
}
