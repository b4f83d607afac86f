// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	"cocoon/agent/runtime/ocipb"
	"cocoon/internal/stage"
	"cocoon/internal/wire/agentpb"
)

// ExecProcess runs a further process in a container and returns when it
// exists.
func (s *service) ExecProcess(ctx context.Context, r *agentpb.ExecProcessRequest) (*emptypb.Empty, error) {
	rt, err := s.sandbox.running(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if r.GetProcess() == nil {
		return nil, fmt.Errorf("Unable to parse process from ExecProcessRequest: %w", ErrInvalid) //nolint:staticcheck // peers match this text
	}
	p, err := ocipb.ToProcess(r.GetProcess())
	if err != nil {
		return nil, fmt.Errorf("exec in container %q: %w: %w", r.GetContainerId(), ErrInvalid, err)
	}
	p.Env = translatePCI(p.Env, s.sandbox.pciAddresses(r.GetContainerId()))
	ctx, stop := s.sandbox.during(ctx)
	defer stop()
	if err := rt.Exec(ctx, r.GetExecId(), p); err != nil {
		return nil, stage.Wrap(stage.Container, err)
	}
	return &emptypb.Empty{}, nil
}

// SignalProcess signals one process, or with SIGKILL and no exec id all of a
// container.
func (s *service) SignalProcess(ctx context.Context, r *agentpb.SignalProcessRequest) (*emptypb.Empty, error) {
	rt, err := s.sandbox.running(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if r.GetSignal() > maxSignal {
		return nil, fmt.Errorf("signal %d: %w", r.GetSignal(), ErrInvalid)
	}
	if err := rt.Signal(ctx, r.GetExecId(), unix.Signal(r.GetSignal())); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// maxSignal is the largest signal number on Linux.
const maxSignal = 64

// WaitProcess returns the exit code of a process when it has ended. All who
// wait get it; the first that does removes the record.
func (s *service) WaitProcess(ctx context.Context, r *agentpb.WaitProcessRequest) (*agentpb.WaitProcessResponse, error) {
	rt, err := s.sandbox.running(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	p, err := rt.Process(r.GetExecId())
	if err != nil {
		return nil, err
	}
	code, err := p.Wait(ctx)
	if err != nil {
		return nil, err
	}
	rt.Forget(r.GetExecId())
	return &agentpb.WaitProcessResponse{Status: int32(code)}, nil
}
