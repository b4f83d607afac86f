// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"fmt"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Pause freezes every process of the container. The container must be created
// or running; if it is paused already the error is ErrPaused. Pause first waits
// for the processes that Exec is making.
func (c *Container) Pause(ctx context.Context) error {
	if err := c.alive(); err != nil {
		return err
	}
	c.mu.Lock()
	if c.paused {
		c.mu.Unlock()
		return fmt.Errorf("pause container %s: %w", c.id, ErrPaused)
	}
	c.paused = true
	made := c.joining.done()
	c.mu.Unlock()
	select {
	case <-made:
	case <-ctx.Done():
		c.unpause()
		return fmt.Errorf("pause container %s: %w", c.id, ctx.Err())
	}
	return c.apart(ctx, "pause", func() error {
		err := c.cg.Freeze(cgroups.Frozen)
		if err != nil {
			c.unpause()
		}
		return err
	})
}

func (c *Container) unpause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = false
}

// Resume thaws a paused container. If it is not paused the error is
// ErrNotPaused.
func (c *Container) Resume(ctx context.Context) error {
	if err := c.alive(); err != nil {
		return err
	}
	return c.apart(ctx, "resume", func() error {
		state, err := c.cg.GetFreezerState()
		if err != nil {
			return err
		}
		if state != cgroups.Frozen {
			return ErrNotPaused
		}
		if err := c.cg.Freeze(cgroups.Thawed); err != nil {
			return err
		}
		c.unpause()
		return nil
	})
}

// alive tells whether there are processes to work on.
func (c *Container) alive() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.deleting:
		return fmt.Errorf("container %s: %w", c.id, ErrDeleted)
	case c.init.exited():
		return fmt.Errorf("container %s: %w", c.id, ErrInitGone)
	}
	return nil
}

// Stats reads the statistics of the container's cgroup. It waits for nothing
// but the kernel, and not even for that longer than ctx lasts.
func (c *Container) Stats(ctx context.Context) (*cgroups.Stats, error) {
	var stats *cgroups.Stats
	err := c.apart(ctx, "read statistics", func() (err error) {
		stats, err = c.cg.GetStats()
		return err
	})
	if err != nil {
		return nil, err
	}
	return stats, nil
}

// CgroupV2 tells which kind of cgroup hierarchy Stats reads.
func (c *Container) CgroupV2() bool { return c.host.cgroupV2 }

// Update changes the limits that are set in r and leaves the others. Device
// rules cannot be changed. A nil r changes nothing.
func (c *Container) Update(ctx context.Context, r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	if err := c.alive(); err != nil {
		return err
	}
	limits := *r
	limits.Devices = nil
	wanted, err := specconv.CreateCgroupConfig(&specconv.CreateOpts{
		Spec: &specs.Spec{Linux: &specs.Linux{Resources: &limits}},
	}, nil)
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	c.mu.Lock()
	next := merge(c.resources, wanted.Resources)
	c.mu.Unlock()
	next.SkipDevices = true
	return c.apart(ctx, "update", func() error {
		if err := c.cg.Set(&next); err != nil {
			return err
		}
		c.mu.Lock()
		c.resources = next
		c.mu.Unlock()
		return nil
	})
}

// merge overlays what is set in b over a.
func merge(a cgroups.Resources, b *cgroups.Resources) cgroups.Resources {
	overlay(&a.Memory, b.Memory)
	overlay(&a.MemoryReservation, b.MemoryReservation)
	overlay(&a.MemorySwap, b.MemorySwap)
	overlay(&a.CpuShares, b.CpuShares)
	overlay(&a.CpuWeight, b.CpuWeight)
	overlay(&a.CpuQuota, b.CpuQuota)
	overlay(&a.CpuPeriod, b.CpuPeriod)
	overlay(&a.CpusetCpus, b.CpusetCpus)
	overlay(&a.CpusetMems, b.CpusetMems)
	overlay(&a.CpuBurst, b.CpuBurst)
	overlay(&a.CpuRtRuntime, b.CpuRtRuntime)
	overlay(&a.CpuRtPeriod, b.CpuRtPeriod)
	overlay(&a.CPUIdle, b.CPUIdle)
	overlay(&a.PidsLimit, b.PidsLimit)
	overlay(&a.MemorySwappiness, b.MemorySwappiness)
	overlay(&a.OomKillDisable, b.OomKillDisable)
	overlay(&a.MemoryCheckBeforeUpdate, b.MemoryCheckBeforeUpdate)
	overlay(&a.BlkioWeight, b.BlkioWeight)
	overlay(&a.BlkioLeafWeight, b.BlkioLeafWeight)
	overlayList(&a.BlkioWeightDevice, b.BlkioWeightDevice)
	overlayList(&a.BlkioThrottleReadBpsDevice, b.BlkioThrottleReadBpsDevice)
	overlayList(&a.BlkioThrottleWriteBpsDevice, b.BlkioThrottleWriteBpsDevice)
	overlayList(&a.BlkioThrottleReadIOPSDevice, b.BlkioThrottleReadIOPSDevice)
	overlayList(&a.BlkioThrottleWriteIOPSDevice, b.BlkioThrottleWriteIOPSDevice)
	overlayList(&a.HugetlbLimit, b.HugetlbLimit)
	if len(b.Unified) > 0 {
		a.Unified = b.Unified
	}
	return a
}

func overlayList[T any](to *[]T, v []T) {
	if len(v) > 0 {
		*to = v
	}
}

func overlay[T comparable](to *T, v T) {
	var unset T
	if v != unset {
		*to = v
	}
}

// apart runs f, which may hang in the kernel, so that the caller does not have
// to hang with it.
func (c *Container) apart(ctx context.Context, what string, f func() error) error {
	c.mu.Lock()
	if c.deleting {
		c.mu.Unlock()
		return fmt.Errorf("%s of container %s: %w", what, c.id, ErrDeleted)
	}
	c.work.Add(1)
	c.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		defer c.work.Done()
		done <- f()
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("%s of container %s: %w", what, c.id, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s of container %s: %w", what, c.id, ctx.Err())
	}
}
