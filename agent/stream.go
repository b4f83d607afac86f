// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"math"

	"google.golang.org/protobuf/types/known/emptypb"

	"cocoon/agent/runtime"
	"cocoon/internal/wire/agentpb"
)

// maxRead bounds one read, in bytes. A shim asks for 32 KiB; an answer has to
// fit a frame of 4 MiB.
const maxRead = 1 << 20

// drainRead is how much is discarded at a time: what a pipe holds.
const drainRead = 64 << 10

// WriteStdin writes all of data to a process. Empty data closes its standard
// input.
func (s *service) WriteStdin(ctx context.Context, r *agentpb.WriteStreamRequest) (*agentpb.WriteStreamResponse, error) {
	p, err := s.sandbox.process(r.GetContainerId(), r.GetExecId())
	if err != nil {
		return nil, err
	}
	n, err := p.Write(ctx, r.GetData())
	if err != nil {
		return nil, err
	}
	return &agentpb.WriteStreamResponse{Len: uint32(n)}, nil
}

// ReadStdout waits for output of a process. No data is its end.
func (s *service) ReadStdout(ctx context.Context, r *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	return s.read(ctx, r, (*runtime.Process).ReadStdout)
}

// ReadStderr waits for error output of a process. No data is its end.
func (s *service) ReadStderr(ctx context.Context, r *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	return s.read(ctx, r, (*runtime.Process).ReadStderr)
}

type readFunc func(*runtime.Process, context.Context, int) ([]byte, error)

func (s *service) read(ctx context.Context, r *agentpb.ReadStreamRequest, do readFunc) (*agentpb.ReadStreamResponse, error) {
	p, err := s.sandbox.process(r.GetContainerId(), r.GetExecId())
	if err != nil {
		return nil, err
	}
	if r.GetLen() == 0 {
		// No data would look like the end of the stream.
		return nil, fmt.Errorf("read of 0 bytes: %w", ErrInvalid)
	}
	data, err := do(p, ctx, int(min(r.GetLen(), maxRead)))
	if err != nil {
		return nil, err
	}
	return &agentpb.ReadStreamResponse{Data: data}, nil
}

// CloseStdin closes a process's standard input. It is ignored for a terminal.
func (s *service) CloseStdin(_ context.Context, r *agentpb.CloseStdinRequest) (*emptypb.Empty, error) {
	p, err := s.sandbox.process(r.GetContainerId(), r.GetExecId())
	if err != nil {
		return nil, err
	}
	p.CloseStdin()
	return &emptypb.Empty{}, nil
}

// TtyWinResize sets the size of a process's terminal.
func (s *service) TtyWinResize(_ context.Context, r *agentpb.TtyWinResizeRequest) (*emptypb.Empty, error) {
	p, err := s.sandbox.process(r.GetContainerId(), r.GetExecId())
	if err != nil {
		return nil, err
	}
	rows, cols := min(r.GetRow(), math.MaxUint16), min(r.GetColumn(), math.MaxUint16)
	if err := p.Resize(uint16(rows), uint16(cols)); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// drainKey names a stream that is being discarded.
type drainKey struct {
	p      *runtime.Process
	stderr bool
}

// drain discards a stream until it ends. Once is enough for a stream.
func (s *sandbox) drain(id, execID string, stderr bool) {
	p, err := s.process(id, execID)
	if err != nil {
		return
	}
	key := drainKey{p: p, stderr: stderr}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, running := s.drains[key]; running || s.alive() != nil {
		return
	}
	s.drains[key] = struct{}{}
	s.watchers.Go(func() {
		discard(s.ctx, key)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.drains, key)
	})
}

// discard reads a stream to its end, or to the end of ctx.
func discard(ctx context.Context, key drainKey) {
	read := key.p.ReadStdout
	if key.stderr {
		read = key.p.ReadStderr
	}
	for {
		data, err := read(ctx, drainRead)
		if err != nil || len(data) == 0 {
			return
		}
	}
}
