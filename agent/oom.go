// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"cocoon/internal/wire/agentpb"
)

// oomQueue hands each event to one waiter.
type oomQueue struct {
	events chan string
}

// maxOOMEvents is how many events wait for a host that does not ask. Further
// ones wait in their watchers.
const maxOOMEvents = 64

func newOOMQueue() *oomQueue { return &oomQueue{events: make(chan string, maxOOMEvents)} }

// watchOOM reports the kills of a container until it is deleted. The caller
// holds s.mu and has seen that the sandbox is alive.
func (s *sandbox) watchOOM(c *container) {
	kills := c.rt.OOM()
	s.watchers.Go(func() {
		for {
			select {
			case _, open := <-kills:
				if !open {
					return
				}
			case <-s.ctx.Done():
				return
			}
			s.log.Warn("a process was killed for want of memory", "container", c.id)
			select {
			case s.oom.events <- c.id:
			case <-s.ctx.Done():
				return
			}
		}
	})
}

// GetOOMEvent waits for an OOM kill in any container and returns the
// container's id. It ends with an INTERNAL error without text when the sandbox
// is destroyed.
func (s *service) GetOOMEvent(ctx context.Context, _ *agentpb.GetOOMEventRequest) (*agentpb.OOMEvent, error) {
	select {
	case id := <-s.sandbox.oom.events:
		return &agentpb.OOMEvent{ContainerId: id}, nil
	case <-s.sandbox.ctx.Done():
		return nil, errNoMoreEvents
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
