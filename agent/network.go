// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/types/known/emptypb"

	"cocoon/internal/wire/agentpb"
	"cocoon/internal/wire/typespb"
)

// UpdateInterface configures one network interface and answers with the
// request. Shims repeat it as long as the error says "Link not found".
func (s *service) UpdateInterface(ctx context.Context, r *agentpb.UpdateInterfaceRequest) (*typespb.Interface, error) {
	if r.GetInterface() == nil {
		return nil, fmt.Errorf("empty update interface request: %w", ErrInvalid)
	}
	if err := s.deps.Network.UpdateInterface(ctx, r.GetInterface()); err != nil {
		return nil, err
	}
	return r.GetInterface(), nil
}

// UpdateRoutes adds and replaces routes and answers with all there are then.
func (s *service) UpdateRoutes(ctx context.Context, r *agentpb.UpdateRoutesRequest) (*agentpb.Routes, error) {
	if r.GetRoutes() == nil {
		return nil, fmt.Errorf("empty update routes request: %w", ErrInvalid)
	}
	all, err := s.deps.Network.UpdateRoutes(ctx, r.GetRoutes().GetRoutes())
	if err != nil {
		return nil, err
	}
	return &agentpb.Routes{Routes: all}, nil
}

// ListInterfaces lists the interfaces of the guest.
func (s *service) ListInterfaces(ctx context.Context, _ *agentpb.ListInterfacesRequest) (*agentpb.Interfaces, error) {
	all, err := s.deps.Network.ListInterfaces(ctx)
	if err != nil {
		return nil, err
	}
	return &agentpb.Interfaces{Interfaces: all}, nil
}

// ListRoutes lists the routes of the guest's main table.
func (s *service) ListRoutes(ctx context.Context, _ *agentpb.ListRoutesRequest) (*agentpb.Routes, error) {
	all, err := s.deps.Network.ListRoutes(ctx)
	if err != nil {
		return nil, err
	}
	return &agentpb.Routes{Routes: all}, nil
}

// AddARPNeighbors adds entries to the neighbour tables.
func (s *service) AddARPNeighbors(ctx context.Context, r *agentpb.AddARPNeighborsRequest) (*emptypb.Empty, error) {
	if r.GetNeighbors() == nil {
		return nil, fmt.Errorf("empty add arp neighbours request: %w", ErrInvalid)
	}
	if err := s.deps.Network.AddNeighbors(ctx, r.GetNeighbors().GetARPNeighbors()); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// GetIPTables returns the packet filter rules of the guest.
func (s *service) GetIPTables(ctx context.Context, r *agentpb.GetIPTablesRequest) (*agentpb.GetIPTablesResponse, error) {
	rules, err := s.deps.Network.SaveIPTables(ctx, r.GetIsIpv6())
	if err != nil {
		return nil, err
	}
	return &agentpb.GetIPTablesResponse{Data: rules}, nil
}

// SetIPTables replaces the packet filter rules of the guest.
func (s *service) SetIPTables(ctx context.Context, r *agentpb.SetIPTablesRequest) (*agentpb.SetIPTablesResponse, error) {
	out, err := s.deps.Network.RestoreIPTables(ctx, r.GetIsIpv6(), r.GetData())
	if err != nil {
		return nil, err
	}
	return &agentpb.SetIPTablesResponse{Data: out}, nil
}
