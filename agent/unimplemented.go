// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"cocoon/internal/wire/agentpb"
)

// unimplemented answers the methods that this agent does not serve. The policy
// is asked about them all the same, so a request that is not allowed learns
// nothing about the agent.
type unimplemented struct{}

func refuse(method string) error {
	return status.Errorf(codes.Unimplemented, "%s is not implemented", method)
}

func (unimplemented) MemAgentMemcgSet(context.Context, *agentpb.MemAgentMemcgConfig) (*emptypb.Empty, error) {
	return nil, refuse("MemAgentMemcgSet")
}

func (unimplemented) MemAgentCompactSet(context.Context, *agentpb.MemAgentCompactConfig) (*emptypb.Empty, error) {
	return nil, refuse("MemAgentCompactSet")
}

// AddSwap and AddSwapPath would write the guest's memory to a device of the
// host.
func (unimplemented) AddSwap(context.Context, *agentpb.AddSwapRequest) (*emptypb.Empty, error) {
	return nil, refuse("AddSwap")
}

func (unimplemented) AddSwapPath(context.Context, *agentpb.AddSwapPathRequest) (*emptypb.Empty, error) {
	return nil, refuse("AddSwapPath")
}

func (unimplemented) ResizeVolume(context.Context, *agentpb.ResizeVolumeRequest) (*emptypb.Empty, error) {
	return nil, refuse("ResizeVolume")
}
