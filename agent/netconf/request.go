// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package netconf

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"cocoon/agent/device"
	"cocoon/internal/wire/typespb"
)

const (
	maxAddresses  = 256
	maxRoutes     = 4096
	maxNeighbours = 4096
)

// wanted is a request for an interface after its check.
type wanted struct {
	name      string
	mac       net.HardwareAddr // nil if not given
	device    string           // PCI path or CCW bus id, "" if not given
	addresses []netip.Prefix
	mtu       int // 0 leaves it alone
	noARP     bool
}

func parseInterface(i *typespb.Interface) (wanted, error) {
	w := wanted{name: i.GetName(), device: i.GetDevicePath(), mtu: int(min(i.GetMtu(), maxMTU)), noARP: i.GetRawFlags()&unix.IFF_NOARP != 0}
	if err := checkName(w.name); err != nil {
		return w, err
	}
	if w.name == "lo" {
		return w, fmt.Errorf("the loopback interface is the guest's own: %w", ErrInvalid)
	}
	if err := checkMTU(i.GetMtu()); err != nil {
		return w, err
	}
	if text := i.GetHwAddr(); text != "" {
		mac, err := parseMAC(text)
		if err != nil {
			return w, err
		}
		w.mac = mac
	}
	if w.device != "" {
		if _, err := device.ParseAddress(w.device); err != nil {
			return w, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	return w, w.parseAddresses(i.GetIPAddresses())
}

func (w *wanted) parseAddresses(list []*typespb.IPAddress) error {
	if len(list) > maxAddresses {
		return fmt.Errorf("%d addresses for one interface: %w", len(list), ErrInvalid)
	}
	for _, a := range list {
		p, err := parseInterfaceAddr(a.GetAddress(), a.GetMask())
		if err != nil {
			return err
		}
		if p.Addr().Is6() && w.mtu != 0 && w.mtu < minMTUIPv6 {
			return fmt.Errorf("MTU %d with an IPv6 address: %w", w.mtu, ErrInvalid)
		}
		w.addresses = append(w.addresses, p)
	}
	return nil
}

// route is a requested route after its check.
type route struct {
	device  string
	dest    netip.Prefix
	gateway netip.Addr // not valid if there is none
	source  netip.Addr // likewise
	scope   uint8
	flags   int
	mtu     int
}

// parseRoutes checks all routes and puts those without a gateway first, for a
// gateway has to be reachable when its route is made.
func parseRoutes(list []*typespb.Route) ([]route, error) {
	if len(list) > maxRoutes {
		return nil, fmt.Errorf("%d routes: %w", len(list), ErrInvalid)
	}
	routes := make([]route, 0, len(list))
	for i, r := range list {
		parsed, err := parseRoute(r)
		if err != nil {
			return nil, fmt.Errorf("route %d: %w", i, err)
		}
		routes = append(routes, parsed)
	}
	slices.SortStableFunc(routes, func(a, b route) int { return btoi(a.gateway.IsValid()) - btoi(b.gateway.IsValid()) })
	return routes, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func parseRoute(r *typespb.Route) (route, error) {
	p := route{device: r.GetDevice(), scope: uint8(min(r.GetScope(), 255)), flags: int(r.GetFlags() & 0xff), mtu: int(min(r.GetMtu(), maxMTU))}
	if err := checkName(p.device); err != nil {
		return p, err
	}
	if err := checkMTU(uint64(r.GetMtu())); err != nil {
		return p, err
	}
	// A scope is a byte; the flags of a route in a request are those of its
	// next hop, of which the kernel takes the low byte.
	if r.GetScope() > 255 || r.GetFlags() > 255 {
		return p, fmt.Errorf("scope %d, flags %#x: %w", r.GetScope(), r.GetFlags(), ErrInvalid)
	}
	var err error
	if text := r.GetGateway(); text != "" {
		if p.gateway, err = parseAddr(text); err != nil {
			return p, fmt.Errorf("gateway: %w", err)
		}
		if p.gateway.IsUnspecified() || p.gateway.IsMulticast() {
			return p, fmt.Errorf("gateway %q: %w", text, ErrInvalid)
		}
	}
	if text := r.GetSource(); text != "" {
		if p.source, err = parseSource(text); err != nil {
			return p, fmt.Errorf("source: %w", err)
		}
	}
	return p, p.parseDest(r)
}

// parseDest reads the destination. Where there is none the route is the
// default route of the family that the other addresses, or else the request's
// field, belong to.
func (p *route) parseDest(r *typespb.Route) (err error) {
	six := r.GetFamily() == typespb.IPFamily_v6
	for _, a := range []netip.Addr{p.source, p.gateway} {
		if a.IsValid() {
			six = a.Is6()
		}
	}
	switch {
	case r.GetDest() != "":
		if p.dest, err = parsePrefix(r.GetDest()); err != nil {
			return fmt.Errorf("destination: %w", err)
		}
	case six:
		p.dest = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	default:
		p.dest = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	for _, a := range []netip.Addr{p.source, p.gateway} {
		if a.IsValid() && a.Is6() != p.dest.Addr().Is6() {
			return fmt.Errorf("route mixes IPv4 and IPv6: %w", ErrInvalid)
		}
	}
	return nil
}

// neighbour is a requested neighbour after its check.
type neighbour struct {
	device string
	ip     netip.Addr
	mac    net.HardwareAddr // nil for a proxy entry
	state  int
	flags  int
}

func parseNeighbours(list []*typespb.ARPNeighbor) ([]neighbour, error) {
	if len(list) > maxNeighbours {
		return nil, fmt.Errorf("%d neighbours: %w", len(list), ErrInvalid)
	}
	neighbours := make([]neighbour, 0, len(list))
	for i, r := range list {
		parsed, err := parseNeighbour(r)
		if err != nil {
			return nil, fmt.Errorf("neighbour %d: %w", i, err)
		}
		neighbours = append(neighbours, parsed)
	}
	return neighbours, nil
}

func parseNeighbour(r *typespb.ARPNeighbor) (neighbour, error) {
	n := neighbour{device: r.GetDevice(), state: int(r.GetState()), flags: int(r.GetFlags())}
	if err := checkName(n.device); err != nil {
		return n, err
	}
	if n.state < 0 || n.state > 0xff || n.flags < 0 || n.flags > 0xff {
		return n, fmt.Errorf("state %d, flags %d: %w", n.state, n.flags, ErrInvalid)
	}
	if n.state == 0 {
		n.state = unix.NUD_PERMANENT
	}
	if r.GetToIPAddress() == nil {
		return n, fmt.Errorf("no address: %w", ErrInvalid)
	}
	ip, err := parseAddr(r.GetToIPAddress().GetAddress())
	if err != nil {
		return n, err
	}
	if n.ip = ip; ip.IsUnspecified() || ip.IsMulticast() {
		return n, fmt.Errorf("address %q is none of a neighbour: %w", ip, ErrInvalid)
	}
	if r.GetLladdr() == "" && n.flags&unix.NTF_PROXY != 0 {
		return n, nil
	}
	n.mac, err = parseLLAddr(r.GetLladdr())
	return n, err
}
