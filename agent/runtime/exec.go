// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"fmt"
	"sync"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Exec runs a further process in the container and returns when it exists. A
// program that does not exist is reported here, as in Create. The exec id must
// be unused (ErrExists); the first process must be alive (ErrInitGone) and the
// container not paused (ErrPaused).
func (c *Container) Exec(ctx context.Context, execID string, p *specs.Process) error {
	if err := c.exec(ctx, execID, p); err != nil {
		return fmt.Errorf("exec in container %s: %w", c.id, err)
	}
	return nil
}

func (c *Container) exec(ctx context.Context, execID string, p *specs.Process) error {
	if err := checkExecID(execID); err != nil {
		return err
	}
	p, err := c.execProcess(p)
	if err != nil {
		return err
	}
	lp, err := newProcess(p)
	if err != nil {
		return err
	}
	if err := c.reserve(execID); err != nil {
		return err
	}
	proc, err := c.join(ctx, launch{
		execID: execID, lp: lp, terminal: p.Terminal, settled: sync.OnceFunc(c.leave),
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		delete(c.procs, execID)
		c.work.Done()
		return explainStart(err, p.Args)
	}
	c.procs[execID] = proc
	go func() {
		defer c.work.Done()
		proc.reap(func() {})
	}()
	return nil
}

// join makes the process unless the container has frozen itself, which one
// with a writable cgroup tree can do. libcontainer clones into the cgroup, and
// the Go run time does not schedule while a clone of its own is stuck: making a
// process in a frozen cgroup could stop the whole agent. For the same reason
// Pause waits for those that are being made.
func (c *Container) join(ctx context.Context, l launch) (*Process, error) {
	state, err := c.cg.GetFreezerState()
	if err == nil && state == cgroups.Frozen {
		err = ErrPaused
	}
	if err != nil {
		l.settled()
		return nil, err
	}
	return c.launch(ctx, l)
}

// leave ends what reserve began with crew.enter.
func (c *Container) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.joining.leave()
}

// crew counts those that are at work. It is guarded by its owner's lock, and
// waited for outside of it.
type crew struct {
	n    int
	idle chan struct{} // closed when n falls to zero; nil before the first
}

func (w *crew) enter() {
	if w.n == 0 {
		w.idle = make(chan struct{})
	}
	w.n++
}

func (w *crew) leave() {
	w.n--
	if w.n == 0 {
		close(w.idle)
	}
}

// done is closed when all that are at work now have left.
func (w *crew) done() <-chan struct{} {
	if w.idle == nil {
		w.idle = make(chan struct{})
		close(w.idle)
	}
	return w.idle
}

// reserve claims an exec id, a place among those that use init's pid, and one
// among the container's goroutines.
func (c *Container) reserve(execID string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, taken := c.procs[execID]
	switch {
	case c.deleting:
		return ErrDeleted
	case c.initEnded:
		return ErrInitGone
	case c.paused:
		return ErrPaused
	case taken || c.isInit(execID):
		return fmt.Errorf("exec_id '%s' %w", execID, ErrExists)
	}
	c.procs[execID] = nil
	c.joining.enter()
	c.work.Add(1)
	return nil
}
