// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sync/errgroup"
)

// The runtime enters namespaces of containers with threads that it then throws
// away. The main thread cannot be thrown away: were it used, /proc/self of the
// guest would show a container's mounts from then on, and the container's root
// would stay mounted for good.
func TestTheMainThreadStaysInTheGuestsNamespaces(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	image := s.plain(t, "app")
	g := start(t, s.settings())
	before := g.namespaces(t)
	g.sandbox(t)
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(4)
	for range 40 {
		id := newID("app")
		r := request(t, id, image, forever...)
		group.Go(func() error {
			if _, err := g.CreateContainer(ctx, r); err != nil {
				return err
			}
			return g.Remove(ctx, id)
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if after := g.namespaces(t); after != before {
		t.Errorf("the main thread was in %v and is now in %v", before, after)
	}
}

// namespaces returns those of the guest's main thread.
func (g *guest) namespaces(t *testing.T) [4]string {
	t.Helper()
	var all [4]string
	for i, kind := range []string{"mnt", "net", "ipc", "uts"} {
		all[i] = must[string](t)(os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", g.cmd.Process.Pid, kind)))
	}
	return all
}
