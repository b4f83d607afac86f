// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"

	"cocoon/internal/wire/agentpb"
)

// destroyLimit bounds the removal of all containers together. What is left
// then goes with the machine.
const destroyLimit = 40 * time.Second

// DestroySandbox ends everything. It succeeds even when a part could not be
// torn down, which is logged: the host ends the machine next, and to fail here
// would only keep the pod in its way. A second one is an error.
func (s *service) DestroySandbox(ctx context.Context, _ *agentpb.DestroySandboxRequest) (*emptypb.Empty, error) {
	err := s.sandbox.destroy(ctx)
	if errors.Is(err, ErrDestroyed) {
		return nil, fmt.Errorf("destroy sandbox: %w", err)
	}
	if err != nil {
		s.deps.Log.Error("the sandbox was not torn down completely", "error", err)
	}
	return &emptypb.Empty{}, nil
}

// destroy removes all containers and what they shared, and closes
// s.destroyed. Only the first call does; others get ErrDestroyed at once.
func (s *sandbox) destroy(ctx context.Context) error {
	s.mu.Lock()
	if err := s.alive(); err != nil {
		s.mu.Unlock()
		return err
	}
	s.state = stateDestroying
	all := make([]*container, 0, len(s.containers))
	for _, c := range s.containers {
		all = append(all, c)
	}
	undo := undoList{steps: s.undo}
	s.undo = nil
	s.mu.Unlock()

	s.cancel() // ends what is being made, and parked GetOOMEvents
	// The caller's patience has no part in this: it is the last chance.
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), destroyLimit)
	defer stop()
	errs := s.removeAll(ctx, all)
	errs = append(errs, undo.run(ctx), s.storages.Close(ctx), s.closePidNS())
	s.watchers.Wait()
	s.log.Info("sandbox destroyed")
	close(s.destroyed)
	if s.onDestroyed != nil {
		s.onDestroyed()
	}
	return errors.Join(errs...)
}

// removeAll removes the containers at the same time, so that one that hangs
// takes nothing from the others.
func (s *sandbox) removeAll(ctx context.Context, all []*container) []error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, c := range all {
		wg.Go(func() { errs[i] = s.remove(ctx, c) })
	}
	wg.Wait()
	return errs
}

func (s *sandbox) closePidNS() error {
	s.mu.Lock()
	f := s.pidNS
	s.pidNS, s.pidOwner = nil, nil
	s.mu.Unlock()
	if f == nil {
		return nil
	}
	return f.Close()
}
