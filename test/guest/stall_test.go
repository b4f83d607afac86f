// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"context"
	"errors"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cocoon/imagers/imagetest"
)

// shortLimit ends a call while the registry keeps the guest waiting.
const shortLimit = 2 * time.Second

// stall serves the first half of a blob and then nothing more. Each arrival of
// a request is told.
func (s *site) stall(l imagetest.Layer) <-chan struct{} {
	arrived := make(chan struct{}, 64)
	s.replaceBlob(digest.FromBytes(l.Blob), func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(l.Blob[:len(l.Blob)/2])
		_ = http.NewResponseController(w).Flush()
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	return arrived
}

// hang starts to create a container and returns when its pull hangs.
func (g *guest) hang(t *testing.T, s *site, id string) (cancel func(), result <-chan error) {
	t.Helper()
	bad, l := s.encrypted(t, "app")
	arrived := s.stall(l)
	ctx, cancel := context.WithCancel(t.Context())
	r := request(t, id, bad, forever...)
	done := make(chan error, 1)
	go func() {
		_, err := g.CreateContainer(ctx, r)
		done <- err
	}()
	<-arrived
	return cancel, done
}

func TestAPullEndsWithTheSandbox(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	good := s.plain(t, "good")
	g := start(t, s.settings())
	g.sandbox(t)
	id := newID("bad")
	cancel, result := g.hang(t, s, id)
	defer cancel()
	if err := g.create(t, id, good, forever...); err == nil {
		t.Error("an id in use was given twice")
	}
	if err := g.DestroySandbox(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-result; err == nil {
		t.Error("the container was created")
	}
	g.wantEnd(t)
	wantNoGroup(t, id)
}

func TestAPullThatTakesTooLongLeavesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	good := s.plain(t, "good")
	g := start(t, s.settings())
	g.sandbox(t)
	before := g.traces(t)
	id := newID("bad")
	bad, l := s.encrypted(t, "app")
	s.stall(l)
	ctx, cancel := context.WithTimeout(t.Context(), shortLimit)
	defer cancel()
	_, err := g.CreateContainer(ctx, request(t, id, bad, forever...))
	if !errors.Is(err, context.DeadlineExceeded) && status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("the call ended with %v", err)
	}
	// The client gives up by itself, maybe before the guest has undone its part.
	g.wantFiles(t, before)
	g.wantRun(t, id, good)
	g.wantNoTrace(t, id, before)
}

func TestASignalEndsAGuestThatPulls(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	g := start(t, s.settings())
	g.sandbox(t)
	cancel, result := g.hang(t, s, newID("bad"))
	defer cancel()
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	g.wantEnd(t)
	if err := <-result; err == nil {
		t.Error("the container was created")
	}
}

// wantFiles waits until the guest has no other files than before.
func (g *guest) wantFiles(t *testing.T, before traces) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), endLimit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		extra := without(g.traces(t).files, before.files)
		if len(extra) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("files are left: %v", extra)
		}
	}
}
