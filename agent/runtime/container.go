// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Container is a created container. Its methods are safe for concurrent use.
type Container struct {
	id       string
	stateDir string
	pipeSize int
	log      *slog.Logger
	host     hostFacts
	caps     *specs.LinuxCapabilities // of the first process
	after    configs.HookList         // poststart hooks

	lc *libcontainer.Container
	// cg works on the same groups as lc but is not behind lc's lock, which is
	// held as long as a process takes to start.
	cg cgroups.Manager

	mu        sync.Mutex // never held over I/O
	init      *Process
	initEnded bool                // no process may join init's namespaces any more
	initGone  bool                // the record of init was dropped
	procs     map[string]*Process // by exec id; nil while the process is being made
	started   bool
	paused    bool // or being paused: no process may be made
	joining   crew // Exec calls that are making a process
	deleting  bool
	resources cgroups.Resources // as set last
	oom       *oomWatch

	deletion gate // held by the Delete that is at work
	gone     bool // Delete succeeded; guarded by deletion

	work sync.WaitGroup // every goroutine of the container
}

// ID returns the container's id.
func (c *Container) ID() string { return c.id }

// InitPID returns the pid of the first process in the agent's pid namespace.
// It names nothing once that process has ended.
func (c *Container) InitPID() int { return c.init.pid }

// Process returns the process with this exec id. Both "" and the container's
// id name the first process. The error wraps ErrInitGone or ErrNoProcess.
func (c *Container) Process(execID string) (*Process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isInit(execID) {
		if c.initGone {
			return nil, fmt.Errorf("container %s: %w", c.id, ErrInitGone)
		}
		return c.init, nil
	}
	if p := c.procs[execID]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("container %s: %w: %q", c.id, ErrNoProcess, execID)
}

func (c *Container) isInit(execID string) bool { return execID == "" || execID == c.id }

// Forget drops the record of a process that has ended and closes the agent's
// ends of its streams, after a read that is in flight. Later look-ups fail with
// ErrInitGone or ErrNoProcess. It does nothing while the process lives, and may
// be repeated.
func (c *Container) Forget(execID string) {
	c.mu.Lock()
	var p *Process
	if c.isInit(execID) {
		p = c.init
	} else {
		p = c.procs[execID]
	}
	if p == nil || !p.exited() {
		c.mu.Unlock()
		return
	}
	if p == c.init {
		c.initGone = true
	} else {
		delete(c.procs, execID)
	}
	c.mu.Unlock()
	p.release()
}

// Start lets the first process run its program and then runs the poststart
// hooks; a hook that fails makes Start fail and kills the container. A second
// call gives ErrStarted.
func (c *Container) Start(ctx context.Context) error {
	c.mu.Lock()
	switch {
	case c.deleting:
		c.mu.Unlock()
		return fmt.Errorf("start container %s: %w", c.id, ErrDeleted)
	case c.started:
		c.mu.Unlock()
		return fmt.Errorf("start container %s: %w", c.id, ErrStarted)
	}
	c.started = true
	c.mu.Unlock()
	if err := c.releaseInit(ctx); err != nil {
		c.mu.Lock()
		c.started = false
		c.mu.Unlock()
		return fmt.Errorf("start container %s: %w", c.id, err)
	}
	return c.runPoststart()
}

// releaseInit opens the reading side of the fifo at which init is parked. It
// does not use libcontainer's Exec, which knows no context and leaves a thread
// behind if init dies.
func (c *Container) releaseInit(ctx context.Context) error {
	path := filepath.Join(c.stateDir, "exec.fifo")
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open exec fifo: %w", err)
	}
	defer unix.Close(fd)
	for {
		dead := c.init.exited() // asked first: what was written before the end is still seen
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(20*time.Millisecond/time.Millisecond))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for exec fifo: %w", err)
		}
		if n > 0 && fds[0].Revents&unix.POLLIN != 0 {
			// libcontainer tells a created from a running container by this file.
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("remove exec fifo: %w", err)
			}
			return nil
		}
		if dead {
			return ErrInitGone
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (c *Container) runPoststart() error {
	if len(c.after) == 0 {
		return nil
	}
	state, err := c.lc.OCIState()
	if err == nil {
		err = configs.Hooks{configs.Poststart: c.after}.Run(configs.Poststart, state)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("run poststart hooks of container %s: %w", c.id, err), c.killAll())
	}
	return nil
}
