// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"cocoon/agent/copyfile"
	"cocoon/agent/device"
	"cocoon/agent/runtime"
	"cocoon/agent/storage"
	"cocoon/internal/mapper"
)

// maxContainers bounds the containers of a pod that exist at a time.
const maxContainers = 1024

// sandbox is one pod: its containers and what they share.
type sandbox struct {
	log         *slog.Logger
	paths       Paths
	runtime     *runtime.Runtime
	unsealer    Unsealer
	devices     *device.Finder
	cdi         CDI
	trustStore  func(ctx context.Context, disk string) error
	storages    *storage.Manager
	copier      *copyfile.Copier
	oom         *oomQueue
	onDestroyed func()

	// ctx ends when the sandbox is being destroyed; everything that is being
	// made ends with it.
	ctx    context.Context //nolint:containedctx // it is the sandbox's life, not a call's
	cancel context.CancelFunc

	// destroyed is closed when everything is torn down.
	destroyed chan struct{}
	// watchers are the goroutines that outlive a call: OOM watchers and drains.
	watchers sync.WaitGroup

	mu         sync.Mutex // guards what follows; never held over I/O
	state      sandboxState
	id         string
	shared     *sharedNamespaces
	undo       []func(context.Context) error // of CreateSandbox, in order
	containers map[string]*container
	pidNS      *os.File   // the pid namespace of the pod, held open
	pidOwner   *container // whose first process made it
	drains     map[drainKey]struct{}
	hooks      guestHooks
	store      storeState
	opened     map[fileID]struct{} // files that hold secrets which were sealed
}

type sandboxState int

const (
	stateNone       sandboxState = iota // CreateSandbox has not been asked for
	stateCreating                       // it is under way
	stateCreated                        // it has succeeded
	stateDestroying                     // DestroySandbox is under way or done
)

func newSandbox(d Deps) *sandbox {
	ctx, cancel := context.WithCancel(context.Background())
	var unchecked func(context.Context) (bool, error)
	if d.Policy != nil {
		unchecked = d.Policy.UncheckedLayers
	}
	return &sandbox{
		log:      d.Log,
		paths:    d.Paths,
		runtime:  d.Runtime,
		unsealer: d.Unsealer,
		devices:  d.Devices, trustStore: d.TrustStore, cdi: d.CDI,
		storages: storage.New(storage.Config{
			Run: d.Paths.Run, PauseBinary: d.Paths.PauseBinary, Puller: d.Puller,
			Devices: d.Devices, SecureMount: d.SecureMount, Mapper: mapper.Mapper{}, Sys: d.Paths.Sys, Log: d.Log,
			UncheckedLayers: unchecked,
		}),
		copier:     copyfile.New(d.Paths.Shared),
		oom:        newOOMQueue(),
		ctx:        ctx,
		cancel:     cancel,
		destroyed:  make(chan struct{}),
		containers: make(map[string]*container),
		drains:     make(map[drainKey]struct{}),
		opened:     make(map[fileID]struct{}),
	}
}

// during returns a context that ends with ctx and with the sandbox.
func (s *sandbox) during(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(ErrDestroyed) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// alive returns ErrDestroyed when the sandbox is going or gone. The caller
// holds s.mu.
func (s *sandbox) alive() error {
	if s.state == stateDestroying {
		return ErrDestroyed
	}
	return nil
}

// container returns the container with this id that is there to be used.
func (s *sandbox) container(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	if c == nil || c.rt == nil {
		return nil, &unknownContainer{id: id}
	}
	return c, nil
}

// running returns the runtime's side of a container.
func (s *sandbox) running(id string) (*runtime.Container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[id]; c != nil && c.rt != nil {
		return c.rt, nil
	}
	return nil, &unknownContainer{id: id}
}

// pciAddresses returns the PCI addresses of a container's devices, the guest's
// by the host's.
func (s *sandbox) pciAddresses(id string) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[id]; c != nil {
		return c.pci // not changed any more
	}
	return nil
}

// process returns a process by container and exec id.
func (s *sandbox) process(id, execID string) (*runtime.Process, error) {
	rt, err := s.running(id)
	if err != nil {
		return nil, err
	}
	return rt.Process(execID)
}

// reserve puts a container that is about to be made on the books, so that no
// other request can take its id.
func (s *sandbox) reserve(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.alive(); err != nil {
		return nil, err
	}
	if _, taken := s.containers[id]; taken {
		return nil, fmt.Errorf("container %q %w", id, ErrExists)
	}
	if len(s.containers) >= maxContainers {
		return nil, fmt.Errorf("more than %d containers: %w", maxContainers, ErrInvalid)
	}
	c := &container{id: id, turn: make(chan struct{}, 1)}
	c.turn <- struct{}{} // its maker has the first turn
	s.containers[id] = c
	return c, nil
}

// forget takes a container off the books.
func (s *sandbox) forget(c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[c.id] == c {
		delete(s.containers, c.id)
	}
}

// container is one container on the sandbox's books.
type container struct {
	id string
	// turn is held by the one call that makes, starts or removes the container.
	turn chan struct{}

	// Written by the holder of turn under the sandbox's mu.
	rt      *runtime.Container // nil until made
	pause   bool               // the pod's sandbox container
	watched bool               // OOM kills are reported
	mounts  []mountRecord      // what GetDiagnosticData looks up
	notes   map[string]string  // annotations
	pci     map[string]string  // PCI addresses, the guest's by the host's
}

// mountRecord is one mount of a container as the guest sees it.
type mountRecord struct{ destination, source string }

// take waits for the container's turn.
func (c *container) take(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for another call on container %q: %w", c.id, context.Cause(ctx))
	}
}

func (c *container) give() { <-c.turn }
