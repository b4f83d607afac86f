// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"cocoon/agent/agentctl/client"
	"cocoon/imagers/imagetest"
)

const (
	crowd = 20 // containers
	execs = 50 // processes in one of them
	// idle connections to registry and broker may stay after a crowd
	idleSockets = 8
)

func TestACrowdOfContainersSharesOnePull(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	layers := []imagetest.Layer{
		imagetest.Encrypt(t, imagetest.GzipLayer(t, busyboxTar(t)), s.kek, keyID),
		imagetest.GzipLayer(t, imagetest.Tar(t, imagetest.Dir("data/"), imagetest.File("data/a", "a"))),
		imagetest.GzipLayer(t, imagetest.Tar(t, imagetest.File("data/b", "b"))),
	}
	s.image(t, "crowd", layers...)
	gets := s.countGets()
	g := start(t, s.settings())
	g.sandbox(t)
	g.wantRun(t, newID("warm"), s.plain(t, "good", imagetest.File("etc/good", "")))
	before, open := g.traces(t), g.descriptors(t)

	ids := make([]string, crowd)
	group, ctx := errgroup.WithContext(t.Context())
	for i := range ids {
		ids[i] = newID("crowd")
		r := request(t, ids[i], s.ref("crowd:1"), forever...)
		group.Go(func() error {
			if _, err := g.CreateContainer(ctx, r); err != nil {
				return err
			}
			return g.Start(ctx, ids[i])
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		if n := gets(digest.FromBytes(l.Blob)); n != 1 {
			t.Errorf("layer %s was fetched %d times", digest.FromBytes(l.Blob), n)
		}
	}
	for _, id := range ids {
		if out := g.output(t, id, "cat /data/a /data/b"); out != "ab" {
			t.Errorf("container %s has %q", id, out)
		}
	}
	g.execMany(t, ids[0])
	group, ctx = errgroup.WithContext(t.Context())
	for _, id := range ids {
		group.Go(func() error { return g.Remove(ctx, id) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		g.wantNoTrace(t, id, before)
	}
	g.wantDescriptors(t, open)
}

// countGets returns how often a blob was fetched so far.
func (s *site) countGets() func(digest.Digest) int {
	var mu sync.Mutex
	counts := map[string]int{}
	s.registry.SetIntercept(func(_ http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodGet {
			counts[filepath.Base(r.URL.Path)]++
		}
		return false
	})
	return func(d digest.Digest) int {
		mu.Lock()
		defer mu.Unlock()
		return counts[d.String()]
	}
}

func (g *guest) output(t *testing.T, id, script string) string {
	t.Helper()
	var out bytes.Buffer
	code, err := g.Exec(t.Context(), client.Command{
		ContainerID: id, ExecID: newID("exec"), Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin"},
	}, client.Streams{Stdout: &out})
	if err != nil || code != 0 {
		t.Errorf("%q in %s ended with %d, %v", script, id, code, err)
	}
	return out.String()
}

// execMany runs many processes at once, each with its own output and code.
func (g *guest) execMany(t *testing.T, id string) {
	t.Helper()
	group, ctx := errgroup.WithContext(t.Context())
	for i := range execs {
		group.Go(func() error {
			var out bytes.Buffer
			code, err := g.Exec(ctx, client.Command{
				ContainerID: id, ExecID: newID("exec"), Args: []string{"/bin/sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i)}, Env: []string{"PATH=/bin"},
			}, client.Streams{Stdout: &out})
			if err == nil && (code != i || out.String() != fmt.Sprintln(i)) {
				err = fmt.Errorf("process %d ended with %d and wrote %q", i, code, out.String())
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// descriptors counts the open files of the guest by kind. Idle connections are
// kept apart: the guest may hold on to some.
func (g *guest) descriptors(t *testing.T) map[string]int {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", g.cmd.Process.Pid)
	kinds := map[string]int{}
	for _, e := range must[[]os.DirEntry](t)(os.ReadDir(dir)) {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		kind, _, _ := strings.Cut(target, ":[")
		kinds[kind]++
	}
	return kinds
}

// wantDescriptors waits until the guest holds no more open files than before.
func (g *guest) wantDescriptors(t *testing.T, before map[string]int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), endLimit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var more []string
		for kind, n := range g.descriptors(t) {
			limit := before[kind]
			if kind == "socket" {
				limit += idleSockets
			}
			if n > limit {
				more = append(more, fmt.Sprintf("%s: %d instead of %d", kind, n, before[kind]))
			}
		}
		if more == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Errorf("open files grew: %s", strings.Join(more, ", "))
			return
		}
	}
}
