// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package podvm

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Numbers of the tunnel.
const (
	tunnelTemp = "vxlan0" // its name until it is in the pod's namespace
	tunnelMTU  = 1450     // what fits into an Ethernet frame
)

// ErrNetwork is returned for a pod network that this guest cannot set up.
var ErrNetwork = errors.New("unsupported pod network")

// ConnectPod connects the pod's namespace at path to the worker node by the
// tunnel that n describes. The outer packets leave by the calling process's
// own network. It may be repeated: a tunnel of an earlier try is replaced.
// What it made is removed when it fails half-way.
func ConnectPod(path string, n *PodNetwork, log *slog.Logger) error {
	if n.Dedicated && log != nil {
		// The node sends to the second card's address. The tunnel is bound to no
		// card, so it hears both; what it sends takes the way that routes say.
		log.Info("the tunnel uses a network card of its own")
	}
	if n.ExternalNet && log != nil {
		log.Warn("external network through the pod VM is not set up; all traffic of the pod takes the tunnel")
	}
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close() // read only; its error says nothing
	// A socket stays in the namespace where it was made.
	var pod *netlink.Handle
	err = inNetNS(path, func() (err error) {
		pod, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return fmt.Errorf("netlink in %q: %w", path, err)
	}
	defer pod.Close()
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer host.Close()
	if err := moveTunnel(host, pod, ns, n); err != nil {
		return fmt.Errorf("make tunnel: %w", err)
	}
	if err := configure(pod, n); err != nil {
		return errors.Join(fmt.Errorf("set up %q of the pod: %w", n.Interface, err), removeLink(pod, n.Interface))
	}
	if log != nil {
		log.Info("pod network is up", "interface", n.Interface, "vni", n.VXLANID)
	}
	return nil
}

// moveTunnel makes the tunnel device here, so that its outer side stays here,
// and moves it into the pod's namespace under its final name.
func moveTunnel(host, pod *netlink.Handle, ns *os.File, n *PodNetwork) error {
	if err := errors.Join(removeLink(host, tunnelTemp), removeLink(pod, tunnelTemp), removeLink(pod, n.Interface)); err != nil {
		return fmt.Errorf("remove old tunnel: %w", err)
	}
	link := &netlink.Vxlan{
		LinkAttrs: netlink.NewLinkAttrs(),
		VxlanId:   n.VXLANID,
		Group:     n.WorkerIP.AsSlice(),
		Port:      n.VXLANPort,
		UDPCSum:   true,
		Learning:  false,
	}
	link.Name = tunnelTemp
	if err := host.LinkAdd(link); err != nil {
		return fmt.Errorf("add %q: %w", tunnelTemp, err)
	}
	if err := host.LinkSetNsFd(link, int(ns.Fd())); err != nil {
		return errors.Join(fmt.Errorf("move %q: %w", tunnelTemp, err), host.LinkDel(link))
	}
	moved, err := pod.LinkByName(tunnelTemp)
	if err != nil {
		return fmt.Errorf("find %q: %w", tunnelTemp, err)
	}
	if err := pod.LinkSetName(moved, n.Interface); err != nil {
		return errors.Join(fmt.Errorf("rename %q to %q: %w", tunnelTemp, n.Interface, err), pod.LinkDel(moved))
	}
	return nil
}

// removeLink removes a tunnel device if it is there. Another kind of device of
// that name is not ours to remove.
func removeLink(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if _, absent := errors.AsType[netlink.LinkNotFoundError](err); absent {
		return nil
	}
	if err != nil {
		return err
	}
	if link.Type() != "vxlan" {
		return fmt.Errorf("device %q is a %s: %w", name, link.Type(), ErrNetwork)
	}
	return h.LinkDel(link)
}

// configure gives the tunnel device the pod's addresses and routes.
func configure(pod *netlink.Handle, n *PodNetwork) error {
	link, err := pod.LinkByName(n.Interface)
	if err != nil {
		return err
	}
	mtu := tunnelMTU
	if n.MTU != 0 {
		mtu = min(n.MTU, tunnelMTU)
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"hardware address", func() error { return pod.LinkSetHardwareAddr(link, n.HWAddr) }},
		{"mtu", func() error { return pod.LinkSetMTU(link, mtu) }},
		{"address", func() error { return pod.AddrAdd(link, &netlink.Addr{IPNet: ipNet(n.PodIP)}) }},
		{"up", func() error { return pod.LinkSetUp(link) }},
		{"connected route", func() error { return dropConnected(pod, link, n.PodIP) }},
		{"routes", func() error { return addRoutes(pod, link, n.Routes) }},
		{"neighbors", func() error { return addNeighbors(pod, link, n.Neighbors) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// dropConnected removes the route that the kernel made for the pod's prefix:
// the pod's neighbours are not on the tunnel unless a route says so.
func dropConnected(pod *netlink.Handle, link netlink.Link, ip netip.Prefix) error {
	if ip.Bits() == 32 {
		return nil
	}
	return pod.RouteDel(&netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: ipNet(ip.Masked()), Scope: netlink.SCOPE_LINK,
		Protocol: unix.RTPROT_KERNEL, Src: ip.Addr().AsSlice(), Table: unix.RT_TABLE_MAIN,
	})
}

// addRoutes adds the routes without gateway first, since those with a gateway
// need them.
func addRoutes(pod *netlink.Handle, link netlink.Link, routes []Route) error {
	sorted := slices.Clone(routes)
	slices.SortStableFunc(sorted, func(a, b Route) int { return rank(a) - rank(b) })
	for _, r := range sorted {
		if r.Dev != "" && r.Dev != link.Attrs().Name {
			return fmt.Errorf("route to %s by device %.20q: %w", r.Dst, r.Dev, ErrNetwork)
		}
		route := &netlink.Route{
			LinkIndex: link.Attrs().Index, Dst: ipNet(r.Dst.Masked()), Table: unix.RT_TABLE_MAIN,
			Protocol: protocol(r.Protocol), Scope: scope(r.Scope),
		}
		if r.Gateway.IsValid() {
			route.Gw = r.Gateway.AsSlice()
		} else {
			route.Scope = netlink.SCOPE_LINK
		}
		if err := pod.RouteAdd(route); err != nil {
			return fmt.Errorf("to %s: %w", r.Dst, err)
		}
	}
	return nil
}

func rank(r Route) int {
	if r.Gateway.IsValid() {
		return 1
	}
	return 0
}

func protocol(name string) netlink.RouteProtocol {
	switch name {
	case "static":
		return unix.RTPROT_STATIC
	case "dhcp":
		return unix.RTPROT_DHCP
	case "kernel":
		return unix.RTPROT_KERNEL
	}
	return unix.RTPROT_BOOT
}

func scope(name string) netlink.Scope {
	switch name {
	case "site":
		return netlink.SCOPE_SITE
	case "link":
		return netlink.SCOPE_LINK
	case "host":
		return netlink.SCOPE_HOST
	case "nowhere":
		return netlink.SCOPE_NOWHERE
	}
	return netlink.SCOPE_UNIVERSE
}

func addNeighbors(pod *netlink.Handle, link netlink.Link, list []Neighbor) error {
	for _, n := range list {
		if n.Dev != "" && n.Dev != link.Attrs().Name {
			return fmt.Errorf("%s on device %.20q: %w", n.IP, n.Dev, ErrNetwork)
		}
		err := pod.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, IP: n.IP.AsSlice(), HardwareAddr: n.HWAddr, State: neighborState(n.State),
		})
		if err != nil {
			return fmt.Errorf("%s: %w", n.IP, err)
		}
	}
	return nil
}

func neighborState(name string) int {
	switch name {
	case "incomplete":
		return unix.NUD_INCOMPLETE
	case "reachable":
		return unix.NUD_REACHABLE
	case "stale":
		return unix.NUD_STALE
	case "delay":
		return unix.NUD_DELAY
	case "probe":
		return unix.NUD_PROBE
	case "failed":
		return unix.NUD_FAILED
	case "noarp":
		return unix.NUD_NOARP
	}
	return unix.NUD_PERMANENT
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
