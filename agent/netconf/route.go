// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package netconf

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cocoon/internal/wire/typespb"
)

// UpdateRoutes adds routes to the main table, those without a gateway first,
// and replaces those with the same destination. Other routes stay. It returns
// all routes, as ListRoutes does. A request that is not sound is ErrInvalid and
// changes nothing; after another failure the routes before the one in the error
// are there.
func (n *Network) UpdateRoutes(ctx context.Context, list []*typespb.Route) ([]*typespb.Route, error) {
	routes, err := parseRoutes(list)
	if err != nil {
		return nil, fmt.Errorf("update routes: %w", err)
	}
	var all []*typespb.Route
	err = n.withHandle(ctx, func(h *netlink.Handle) error {
		for _, r := range routes {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := replaceRoute(h, r); err != nil {
				return fmt.Errorf("route to %s: %w", r.dest, err)
			}
		}
		all, err = listRoutes(h)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("update routes: %w", err)
	}
	return all, nil
}

func replaceRoute(h *netlink.Handle, r route) error {
	link, err := linkByName(h, r.device)
	if err != nil {
		return err
	}
	k := &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: ipNet(r.dest), Scope: netlink.Scope(r.scope), Flags: r.flags, MTU: r.mtu,
		Protocol: unix.RTPROT_BOOT, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST,
	}
	if r.gateway.IsValid() {
		k.Gw = r.gateway.AsSlice()
	}
	if r.source.IsValid() {
		k.Src = r.source.AsSlice()
	}
	if err := h.RouteReplace(k); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// AddNeighbors adds entries to the neighbour tables (ARP and NDP) and replaces
// those of the same addresses. A request that is not sound is ErrInvalid and
// changes nothing.
func (n *Network) AddNeighbors(ctx context.Context, list []*typespb.ARPNeighbor) error {
	neighbours, err := parseNeighbours(list)
	if err != nil {
		return fmt.Errorf("add neighbours: %w", err)
	}
	err = n.withHandle(ctx, func(h *netlink.Handle) error {
		for _, r := range neighbours {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := setNeighbour(h, r); err != nil {
				return fmt.Errorf("neighbour %s: %w", r.ip, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("add neighbours: %w", err)
	}
	return nil
}

func setNeighbour(h *netlink.Handle, r neighbour) error {
	link, err := linkByName(h, r.device)
	if err != nil {
		return err
	}
	return h.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, State: r.state, Flags: r.flags, IP: r.ip.AsSlice(), HardwareAddr: r.mac,
	})
}
