// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package netconf

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cocoon/internal/wire/typespb"
)

// ListInterfaces returns all interfaces with their addresses.
func (n *Network) ListInterfaces(ctx context.Context) ([]*typespb.Interface, error) {
	var all []*typespb.Interface
	err := n.withHandle(ctx, func(h *netlink.Handle) (err error) {
		all, err = listInterfaces(h)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	return all, nil
}

func listInterfaces(h *netlink.Handle) ([]*typespb.Interface, error) {
	links, err := h.LinkList()
	if err != nil {
		return nil, err
	}
	addresses, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("addresses: %w", err)
	}
	of := map[int][]*typespb.IPAddress{}
	for _, a := range addresses {
		if a.IPNet == nil {
			continue
		}
		bits, _ := a.Mask.Size()
		of[a.LinkIndex] = append(of[a.LinkIndex], &typespb.IPAddress{
			Family: familyOf(a.IP), Address: a.IP.String(), Mask: strconv.Itoa(bits),
		})
	}
	all := make([]*typespb.Interface, 0, len(links))
	for _, l := range links {
		a := l.Attrs()
		all = append(all, &typespb.Interface{
			Name: a.Name, HwAddr: a.HardwareAddr.String(), Mtu: uint64(max(a.MTU, 0)), IPAddresses: of[a.Index], RawFlags: a.RawFlags,
		})
	}
	return all, nil
}

func familyOf(ip net.IP) typespb.IPFamily {
	if ip.To4() == nil {
		return typespb.IPFamily_v6
	}
	return typespb.IPFamily_v4
}

// ListRoutes returns the routes of the main table that have a destination or a
// gateway. The destination of a default route is "0.0.0.0" or "::1", as
// upstream's agent writes it; that of another route is a prefix.
func (n *Network) ListRoutes(ctx context.Context) ([]*typespb.Route, error) {
	var all []*typespb.Route
	err := n.withHandle(ctx, func(h *netlink.Handle) (err error) {
		all, err = listRoutes(h)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return all, nil
}

func listRoutes(h *netlink.Handle) ([]*typespb.Route, error) {
	links, err := h.LinkList()
	if err != nil {
		return nil, err
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	main := &netlink.Route{Table: unix.RT_TABLE_MAIN}
	routes, err := h.RouteListFiltered(netlink.FAMILY_ALL, main, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, err
	}
	all := []*typespb.Route{}
	for _, r := range routes {
		if w, ok := describeRoute(r); ok {
			w.Device = names[r.LinkIndex]
			all = append(all, w)
		}
	}
	return all, nil
}

// describeRoute writes a route as the protocol does; false if it has neither
// destination nor gateway.
func describeRoute(r netlink.Route) (*typespb.Route, bool) {
	w := &typespb.Route{Scope: uint32(r.Scope), Flags: uint32(r.Flags), Mtu: uint32(max(r.MTU, 0))}
	if r.Family == netlink.FAMILY_V6 {
		w.Family = typespb.IPFamily_v6
	}
	if r.Src != nil {
		w.Source = r.Src.String()
	}
	bits := 0
	if r.Dst != nil {
		bits, _ = r.Dst.Mask.Size()
	}
	switch {
	case bits > 0:
		w.Dest = r.Dst.String()
	case r.Gw == nil:
		return nil, false
	case w.Family == typespb.IPFamily_v6:
		w.Dest = "::1"
	default:
		w.Dest = "0.0.0.0"
	}
	if r.Gw != nil {
		w.Gateway = r.Gw.String()
	}
	return w, true
}
