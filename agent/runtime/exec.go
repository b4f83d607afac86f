// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"fmt"

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
	if err := checkID(execID); err != nil {
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
	// A process that joins a frozen cgroup stops half way.
	if state, err := c.cg.GetFreezerState(); err != nil {
		return fmt.Errorf("read freezer state: %w", err)
	} else if state == cgroups.Frozen {
		return ErrPaused
	}
	if err := c.reserve(execID); err != nil {
		return err
	}
	proc, err := c.launch(ctx, launch{execID: execID, lp: lp, terminal: p.Terminal})
	c.joining.Done()
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
	case taken || c.isInit(execID):
		return fmt.Errorf("exec_id '%s' %w", execID, ErrExists)
	}
	c.procs[execID] = nil
	c.joining.Add(1)
	c.work.Add(1)
	return nil
}
