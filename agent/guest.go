// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	"cocoon/internal/wire/agentpb"
)

// health implements agentpb.HealthService. It is the only service that the
// policy is not asked about.
type health struct{ version string }

// Check says that the agent serves; that it answers is the proof.
func (health) Check(context.Context, *agentpb.CheckRequest) (*agentpb.HealthCheckResponse, error) {
	return &agentpb.HealthCheckResponse{Status: agentpb.HealthCheckResponse_SERVING}, nil
}

// Version returns the protocol's and the agent's version.
func (h health) Version(context.Context, *agentpb.CheckRequest) (*agentpb.VersionCheckResponse, error) {
	return &agentpb.VersionCheckResponse{GrpcVersion: apiVersion, AgentVersion: h.version}, nil
}

// GetGuestDetails says what the guest can do.
func (s *service) GetGuestDetails(_ context.Context, r *agentpb.GuestDetailsRequest) (*agentpb.GuestDetailsResponse, error) {
	resp := &agentpb.GuestDetailsResponse{AgentDetails: &agentpb.AgentDetails{
		Version:         s.deps.Version,
		InitDaemon:      os.Getpid() == 1 || os.Getppid() == 1,
		DeviceHandlers:  deviceTypes(),
		StorageHandlers: s.sandbox.storages.Drivers(),
		SupportsSeccomp: s.deps.SupportsSeccomp,
	}}
	memory := filepath.Join(s.deps.Paths.Sys, "devices/system/memory")
	if r.GetMemBlockSize() {
		size, err := blockSize(filepath.Join(memory, "block_size_bytes"))
		if err != nil {
			return nil, err
		}
		resp.MemBlockSizeBytes = size
	}
	if r.GetMemHotplugProbe() {
		_, err := os.Stat(filepath.Join(memory, "probe"))
		resp.SupportMemHotplugProbe = err == nil
	}
	return resp, nil
}

// blockSize reads the size of a memory block in bytes; 0 where the kernel has
// no memory hot-plug.
func blockSize(file string) (uint64, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read memory block size: %w", err)
	}
	size, err := strconv.ParseUint(strings.TrimSpace(string(b)), 16, 64)
	if err != nil {
		return 0, fmt.Errorf("read memory block size: %w", err)
	}
	return size, nil
}

// SetPolicy replaces the policy.
func (s *service) SetPolicy(ctx context.Context, r *agentpb.SetPolicyRequest) (*emptypb.Empty, error) {
	if err := s.deps.Policy.SetPolicy(ctx, r.GetPolicy()); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// UpdateEphemeralMounts changes the size of in-memory volumes.
func (s *service) UpdateEphemeralMounts(ctx context.Context, r *agentpb.UpdateEphemeralMountsRequest) (*emptypb.Empty, error) {
	if err := s.sandbox.storages.Remount(ctx, r.GetStorages()); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

const (
	rndReseedCRNG = 0x5207 // RNDRESEEDCRNG

	// maxSeed bounds the seed; a shim sends 512 bytes.
	maxSeed = 4096
)

// ReseedRandomDev stirs data into the kernel's random numbers. Unlike upstream's
// agent it credits no entropy (RNDADDTOENTCNT): the data are the host's.
func (s *service) ReseedRandomDev(_ context.Context, r *agentpb.ReseedRandomDevRequest) (_ *emptypb.Empty, err error) {
	if n := len(r.GetData()); n == 0 || n > maxSeed {
		return nil, fmt.Errorf("seed of %d bytes: %w", n, ErrInvalid)
	}
	f, err := os.OpenFile(s.deps.Paths.Random, os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("reseed: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(r.GetData()); err != nil {
		return nil, fmt.Errorf("reseed: %w", err)
	}
	if err := unix.IoctlSetInt(int(f.Fd()), rndReseedCRNG, 0); err != nil {
		return nil, fmt.Errorf("reseed: RNDRESEEDCRNG: %w", err)
	}
	return &emptypb.Empty{}, nil
}
