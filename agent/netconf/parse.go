// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package netconf

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

const (
	maxName = 15 // IFNAMSIZ without the final NUL

	minMTU     = 68      // RFC 791
	minMTUIPv6 = 1280    // RFC 8200; below, the kernel takes IPv6 off the interface
	maxMTU     = 1 << 16 // that of the loopback interface, the largest there is
	maxText    = 64      // no address or prefix is longer
	etherLen   = 6
)

// checkName accepts what the kernel accepts as an interface's name, without
// the templates ("eth%d") by which it would choose a name itself.
func checkName(name string) error {
	bad := len(name) == 0 || len(name) > maxName || name == "." || name == ".."
	for _, c := range []byte(name) {
		bad = bad || c <= ' ' || c >= 0x7f || c == '/' || c == ':' || c == '%'
	}
	if bad {
		return fmt.Errorf("interface name %q: %w", name[:min(len(name), maxText)], ErrInvalid)
	}
	return nil
}

// parseMAC reads the address of an Ethernet interface.
func parseMAC(text string) (net.HardwareAddr, error) {
	mac, err := parseLLAddr(text)
	if err == nil && (len(mac) != etherLen || mac[0]&1 != 0 || bytes.Equal(mac, make([]byte, etherLen))) {
		err = fmt.Errorf("hardware address %q is none of an interface: %w", text, ErrInvalid)
	}
	if err != nil {
		return nil, err
	}
	return mac, nil
}

// parseLLAddr reads the link-layer address of a neighbour.
func parseLLAddr(text string) (net.HardwareAddr, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("hardware address of %d bytes: %w", len(text), ErrInvalid)
	}
	mac, err := net.ParseMAC(text)
	if err != nil {
		return nil, fmt.Errorf("hardware address %q: %w", text, ErrInvalid)
	}
	return mac, nil
}

// parseAddr reads a plain address. Zones, and IPv4 written as IPv6, are refused.
func parseAddr(text string) (netip.Addr, error) {
	if len(text) > maxText {
		return netip.Addr{}, fmt.Errorf("address of %d bytes: %w", len(text), ErrInvalid)
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return netip.Addr{}, fmt.Errorf("address %q: %w", text, ErrInvalid)
	}
	return a, nil
}

// parseInterfaceAddr reads an address with its decimal prefix length. What
// cannot be the address of one interface towards a network is refused; a
// loopback address would draw traffic of the guest's own services.
func parseInterfaceAddr(address, mask string) (netip.Prefix, error) {
	a, err := parseAddr(address)
	if err != nil {
		return netip.Prefix{}, err
	}
	if a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return netip.Prefix{}, fmt.Errorf("address %q is none of an interface: %w", address, ErrInvalid)
	}
	bits, err := parseBits(mask, a.BitLen())
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, bits), nil
}

func parseBits(text string, most int) (int, error) {
	n, err := strconv.ParseUint(text, 10, 8)
	if err != nil || int(n) > most || strconv.FormatUint(n, 10) != text {
		return 0, fmt.Errorf("prefix length %q: %w", text[:min(len(text), maxText)], ErrInvalid)
	}
	return int(n), nil
}

// parsePrefix reads a destination: a prefix, or an address that stands for
// itself. "::ffff:0.0.0.0/0" is how some hosts write the IPv4 default route.
// Bits outside of the prefix are refused, as the kernel does for IPv4.
func parsePrefix(text string) (netip.Prefix, error) {
	address, mask, isPrefix := strings.Cut(text, "/")
	if len(text) > maxText {
		return netip.Prefix{}, fmt.Errorf("prefix of %d bytes: %w", len(text), ErrInvalid)
	}
	a, err := netip.ParseAddr(address)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("prefix %q: %w", text, ErrInvalid)
	}
	bits := a.BitLen()
	if isPrefix {
		if bits, err = parseBits(mask, a.BitLen()); err != nil {
			return netip.Prefix{}, err
		}
	}
	if a.Is4In6() {
		mapped := bits - 96
		if bits == 0 {
			mapped = 0
		}
		a, bits = a.Unmap(), mapped
	}
	p := netip.PrefixFrom(a, bits)
	if !p.IsValid() || p.Masked() != p {
		return netip.Prefix{}, fmt.Errorf("prefix %q: %w", text, ErrInvalid)
	}
	return p, nil
}

// parseSource reads the preferred source address of a route. A real prefix
// would be a condition on packets' sources, which IPv4 routes do not have.
func parseSource(text string) (netip.Addr, error) {
	if !strings.Contains(text, "/") {
		return parseAddr(text)
	}
	p, err := parsePrefix(text)
	if err == nil && !p.IsSingleIP() {
		err = fmt.Errorf("source %q is more than one address: %w", text, ErrInvalid)
	}
	return p.Addr(), err
}

// checkMTU accepts 0, which leaves the MTU alone, and what IP can work with.
func checkMTU(mtu uint64) error {
	if mtu != 0 && (mtu < minMTU || mtu > maxMTU) {
		return fmt.Errorf("MTU %d: %w", mtu, ErrInvalid)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
