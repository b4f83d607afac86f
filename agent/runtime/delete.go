// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"fmt"
	"time"
)

// deleteWait bounds Delete when its context does not.
const deleteWait = 30 * time.Second

// Delete kills every process of the container, waits until they are reaped and
// removes the cgroup and the state. It runs the poststop hooks; one that fails
// is logged, since nothing is left that could be kept. Repeating Delete after
// it failed tries again; after it succeeded it does nothing. The root file
// system is the caller's and stays.
func (c *Container) Delete(ctx context.Context) error {
	c.mu.Lock()
	c.deleting = true
	watch := c.oom
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, deleteWait)
	defer cancel()
	if err := c.remove(ctx, watch); err != nil {
		return fmt.Errorf("delete container %s: %w", c.id, err)
	}
	return nil
}

func (c *Container) remove(ctx context.Context, watch *oomWatch) error {
	if err := c.deletion.enter(ctx); err != nil {
		return err
	}
	defer c.deletion.leave()
	if c.gone {
		return nil
	}
	if err := c.emptyCgroup(ctx); err != nil {
		return err
	}
	if watch != nil {
		watch.stop()
	}
	if err := c.awaitWork(ctx); err != nil {
		return err
	}
	if err := c.lc.Destroy(); err != nil {
		if !cgroupGone(c.cg) || !removed(c.stateDir) {
			return err
		}
		c.log.Warn("poststop hook failed", "container", c.id, "error", err)
	}
	c.gone = true
	c.releaseAll()
	return nil
}

// emptyCgroup kills until no process is left. Once is not always enough: a
// process may have been on its way into the group.
func (c *Container) emptyCgroup(ctx context.Context) error {
	wait := time.Millisecond
	for {
		if err := c.killAll(); err != nil {
			return err
		}
		pids, err := c.cg.GetAllPids()
		if cgroupGone(c.cg) || (err == nil && len(pids) == 0) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %d killed processes: %w", len(pids), ctx.Err())
		case <-time.After(wait):
			wait = min(2*wait, 50*time.Millisecond)
		}
	}
}

// awaitWork waits for every goroutine of the container.
func (c *Container) awaitWork(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.work.Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the container's processes: %w", ctx.Err())
	}
}

// releaseAll drops the records of all processes.
func (c *Container) releaseAll() {
	c.mu.Lock()
	c.initGone = true
	procs := []*Process{c.init}
	for id, p := range c.procs {
		if p != nil {
			procs = append(procs, p)
		}
		delete(c.procs, id)
	}
	c.mu.Unlock()
	for _, p := range procs {
		p.release()
	}
}
