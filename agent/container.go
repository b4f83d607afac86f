// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"

	"cocoon/agent/runtime"
	"cocoon/agent/runtime/ocipb"
	"cocoon/agent/storage"
	"cocoon/internal/stage"
	"cocoon/internal/wire/agentpb"
)

// StartContainer lets the container's process run. OOM kills are reported from
// here on, except those of the pod's sandbox container.
func (s *service) StartContainer(ctx context.Context, r *agentpb.StartContainerRequest) (*emptypb.Empty, error) {
	if err := s.sandbox.start(ctx, r.GetContainerId()); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func (s *sandbox) start(ctx context.Context, id string) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	ctx, stop := s.during(ctx)
	defer stop()
	if err := c.take(ctx); err != nil {
		return err
	}
	defer c.give()
	s.mu.Lock()
	// It may have been removed while this call waited.
	gone := s.containers[id] != c
	if !gone && !c.pause && !c.watched && s.alive() == nil {
		c.watched = true
		s.watchOOM(c)
	}
	s.mu.Unlock()
	if gone {
		return &unknownContainer{id: id}
	}
	if err := c.rt.Start(ctx); err != nil {
		return stage.Wrap(stage.Container, err)
	}
	s.log.Info("container started", "container", id)
	return nil
}

// RemoveContainer ends a container and gives back all it used. A timeout in
// seconds that is not 0 bounds it; the error is ETIME then, and the call can
// be repeated.
func (s *service) RemoveContainer(ctx context.Context, r *agentpb.RemoveContainerRequest) (*emptypb.Empty, error) {
	if t := r.GetTimeout(); t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(t)*time.Second, errTimeout)
		defer cancel()
	}
	c, err := s.sandbox.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	err = s.sandbox.remove(ctx, c)
	if err != nil && errors.Is(context.Cause(ctx), errTimeout) {
		return nil, fmt.Errorf("remove container %q: %w", c.id, errTimeout)
	}
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// remove takes a container down. Each step can be repeated, so after an error
// the container stays on the books and remove can be called again.
func (s *sandbox) remove(ctx context.Context, c *container) error {
	if err := c.take(ctx); err != nil {
		return err
	}
	defer c.give()
	s.mu.Lock()
	rt, known := c.rt, s.containers[c.id] == c
	s.mu.Unlock()
	if !known || rt == nil {
		return nil // whoever had the turn before has removed it
	}
	if err := rt.Delete(ctx); err != nil {
		return err
	}
	if err := s.storages.Detach(ctx, c.id); err != nil {
		return fmt.Errorf("remove container %q: %w", c.id, err)
	}
	if err := storage.RemoveTree(s.paths.bundle(c.id)); err != nil {
		return fmt.Errorf("remove container %q: %w", c.id, err)
	}
	err := s.leavePod(c)
	s.forget(c)
	s.log.Info("container removed", "container", c.id)
	return err
}

// leavePod lets the pod's pid namespace go with the container that made it:
// no process can join it any more.
func (s *sandbox) leavePod(c *container) error {
	s.mu.Lock()
	owner := s.pidOwner == c
	s.mu.Unlock()
	if !owner {
		return nil
	}
	return s.closePidNS()
}

// UpdateContainer changes the limits of a container. Without resources it does
// nothing.
func (s *service) UpdateContainer(ctx context.Context, r *agentpb.UpdateContainerRequest) (*emptypb.Empty, error) {
	rt, err := s.sandbox.running(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	res, err := ocipb.ToResources(r.GetResources())
	if err != nil {
		return nil, err
	}
	if err := rt.Update(ctx, res); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// StatsContainer reads a container's cgroup.
func (s *service) StatsContainer(ctx context.Context, r *agentpb.StatsContainerRequest) (*agentpb.StatsContainerResponse, error) {
	rt, err := s.sandbox.running(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	stats, err := rt.Stats(ctx)
	if err != nil {
		return nil, err
	}
	version := ocipb.CgroupV1
	if rt.CgroupV2() {
		version = ocipb.CgroupV2
	}
	return ocipb.FromStats(stats, version), nil
}

// PauseContainer freezes a container.
func (s *service) PauseContainer(ctx context.Context, r *agentpb.PauseContainerRequest) (*emptypb.Empty, error) {
	return s.freeze(ctx, r.GetContainerId(), (*runtime.Container).Pause)
}

// ResumeContainer thaws a container.
func (s *service) ResumeContainer(ctx context.Context, r *agentpb.ResumeContainerRequest) (*emptypb.Empty, error) {
	return s.freeze(ctx, r.GetContainerId(), (*runtime.Container).Resume)
}

func (s *service) freeze(ctx context.Context, id string, do func(*runtime.Container, context.Context) error) (*emptypb.Empty, error) {
	rt, err := s.sandbox.running(id)
	if err != nil {
		return nil, err
	}
	if err := do(rt, ctx); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}
