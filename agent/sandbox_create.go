// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"google.golang.org/protobuf/types/known/emptypb"

	"cocoon/agent/storage"
	"cocoon/internal/wire/agentpb"
)

// CreateSandbox prepares what the containers of a pod share. When it fails it
// can be asked for again; once it has succeeded a second one is refused.
func (s *service) CreateSandbox(ctx context.Context, r *agentpb.CreateSandboxRequest) (*emptypb.Empty, error) {
	if err := s.sandbox.create(ctx, r); err != nil {
		return nil, fmt.Errorf("create sandbox: %w", err)
	}
	return &emptypb.Empty{}, nil
}

func (s *sandbox) create(ctx context.Context, r *agentpb.CreateSandboxRequest) error {
	if err := checkSandboxRequest(r); err != nil {
		return err
	}
	if err := s.checkPlaces("", r.GetStorages()); err != nil {
		return err
	}
	if err := s.begin(); err != nil {
		return err
	}
	ctx, stop := s.during(ctx)
	defer stop()
	var done undoList
	shared, err := s.prepare(ctx, r, &done)
	s.mu.Lock()
	if err == nil {
		err = s.alive()
	}
	if err == nil {
		s.state, s.shared, s.undo = stateCreated, shared, done.steps
		if r.GetSandboxId() != "" {
			s.id = r.GetSandboxId()
		}
		s.mu.Unlock()
		s.log.Info("sandbox created", "sandbox", r.GetSandboxId())
		return nil
	}
	s.mu.Unlock()
	err = errors.Join(err, done.run(context.WithoutCancel(ctx)))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == stateCreating {
		s.state = stateNone
	}
	return err
}

// checkSandboxRequest refuses what is not supported before anything is done.
func checkSandboxRequest(r *agentpb.CreateSandboxRequest) error {
	if id := r.GetSandboxId(); id != "" {
		if err := checkID(id); err != nil {
			return err
		}
	}
	return checkModules(r.GetKernelModules())
}

// begin claims the one creation that can be under way.
func (s *sandbox) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.alive(); err != nil {
		return err
	}
	if s.state != stateNone {
		return fmt.Errorf("sandbox %w", ErrExists)
	}
	s.state = stateCreating
	return nil
}

// prepare carries out the steps in order and notes how to undo each.
func (s *sandbox) prepare(ctx context.Context, r *agentpb.CreateSandboxRequest, done *undoList) (*sharedNamespaces, error) {
	if err := s.resetRunDir(); err != nil {
		return nil, err
	}
	if err := s.takeHooks(r.GetGuestHookPath()); err != nil {
		return nil, err
	}
	if err := s.loadModules(ctx, r.GetKernelModules()); err != nil {
		return nil, err
	}
	shared, err := shareNamespaces(s.paths.Namespaces, r.GetHostname())
	if err != nil {
		return nil, err
	}
	done.add(shared.remove)
	if err := s.storages.Attach(ctx, "", r.GetStorages()); err != nil {
		return nil, err
	}
	done.add(func(ctx context.Context) error { return s.storages.Detach(ctx, "") })
	unset, err := s.setDNS(r.GetDns())
	if err != nil {
		return nil, err
	}
	done.add(unset)
	return shared, nil
}

// takeHooks notes the guest hooks in dir, if it names one.
func (s *sandbox) takeHooks(dir string) error {
	var h guestHooks
	if dir != "" {
		var err error
		if h, err = scanHooks(dir, s.paths.isImageFile); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.hooks = h
	s.mu.Unlock()
	return nil
}

// resetRunDir makes the run directory and removes stale bundles from it. What
// something is mounted in, the image store, and files such as sockets stay.
// Bundles of containers that exist stay as well: nothing forbids a container
// before the sandbox.
func (s *sandbox) resetRunDir() error {
	if err := os.MkdirAll(s.paths.Run, 0o755); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	list, err := os.ReadDir(s.paths.Run)
	if err != nil {
		return fmt.Errorf("read run directory: %w", err)
	}
	for _, e := range list {
		if !e.IsDir() || e.Name() == "image" || s.known(e.Name()) {
			continue
		}
		err := storage.RemoveTree(s.paths.bundle(e.Name()))
		if errors.Is(err, storage.ErrMounted) {
			s.log.Warn("a stale directory stays because something is mounted in it", "name", e.Name())
			continue
		}
		if err != nil {
			return err
		}
	}
	if err := os.MkdirAll(s.paths.Shared, 0o755); err != nil {
		return fmt.Errorf("make shared directory: %w", err)
	}
	return nil
}

func (s *sandbox) known(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.containers[id]
	return ok
}

// undoList collects what takes back the steps done so far.
type undoList struct {
	steps []func(context.Context) error
}

func (u *undoList) add(f func(context.Context) error) { u.steps = append(u.steps, f) }

// run takes everything back, the last step first. All steps are tried.
func (u *undoList) run(ctx context.Context) error {
	var errs []error
	for _, f := range slices.Backward(u.steps) {
		errs = append(errs, f(ctx))
	}
	u.steps = nil
	return errors.Join(errs...)
}
