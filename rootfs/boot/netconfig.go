// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// ErrNetConfig is wrapped by every error about the value of the kernel
// parameter "ip".
var ErrNetConfig = errors.New("malformed network parameter")

// NetConfig is the network of the VM as the kernel parameter "ip" describes it.
type NetConfig struct {
	// DHCP asks a server for address, gateway and name servers.
	DHCP bool
	// Address is the VM's IPv4 address with its prefix length.
	Address netip.Prefix
	// Gateway is where the default route leads; the zero value means no route.
	Gateway netip.Addr
	// Hostname replaces the one of the image unless it is empty.
	Hostname string
	// Device names the interface; empty means the first virtio one.
	Device string
	// DNS are the name servers, at most two.
	DNS []netip.Addr
}

// ipFields is the number of fields of the parameter:
// client:server:gateway:netmask:hostname:device:autoconf:dns0:dns1:ntp0.
const ipFields = 10

// maxInterfaceName is IFNAMSIZ without the NUL.
const maxInterfaceName = 15

// ParseIP parses the value of the kernel parameter "ip" as the kernel's own
// nfsroot documentation defines it. "off" and "none" yield nil. "dhcp", alone or
// as the autoconfiguration, leaves the address to a server; a hostname and a
// device may stand beside it. Otherwise address and netmask are required. The
// other kinds of automatic configuration are refused.
func ParseIP(value string) (*NetConfig, error) {
	if value == "off" || value == "none" {
		return nil, nil
	}
	if value == "dhcp" {
		return &NetConfig{DHCP: true}, nil
	}
	f := strings.Split(value, ":")
	if len(f) < 4 || len(f) > ipFields {
		return nil, fmt.Errorf("%q has %d fields, not 4 to %d: %w", value, len(f), ipFields, ErrNetConfig)
	}
	f = append(f, make([]string, ipFields-len(f))...)
	c := &NetConfig{Hostname: f[4], Device: f[5]}
	switch f[6] {
	case "", "off", "none":
	case "dhcp":
		if strings.Join(append(f[:4:4], f[7:]...), "") != "" {
			return nil, fmt.Errorf("%q gives addresses beside dhcp: %w", value, ErrNetConfig)
		}
		c.DHCP = true
		return c, c.checkNames()
	default:
		return nil, fmt.Errorf("autoconfiguration %q is not supported: %w", f[6], ErrNetConfig)
	}
	var err error
	if c.Address, err = parseAddress(f[0], f[3]); err != nil {
		return nil, err
	}
	if c.Gateway, err = parseOptional("gateway", f[2]); err != nil {
		return nil, err
	}
	if c.Gateway.IsValid() && !c.Address.Contains(c.Gateway) {
		return nil, fmt.Errorf("gateway %s is not in %s: %w", c.Gateway, c.Address, ErrNetConfig)
	}
	for _, s := range f[7:9] {
		dns, err := parseOptional("name server", s)
		if err != nil {
			return nil, err
		}
		if dns.IsValid() {
			c.DNS = append(c.DNS, dns)
		}
	}
	return c, c.checkNames()
}

func parseAddress(addr, mask string) (netip.Prefix, error) {
	a, err := parseOptional("address", addr)
	if err != nil {
		return netip.Prefix{}, err
	}
	m, err := parseOptional("netmask", mask)
	if err != nil {
		return netip.Prefix{}, err
	}
	if !a.IsValid() || !m.IsValid() {
		return netip.Prefix{}, fmt.Errorf("address and netmask are required: %w", ErrNetConfig)
	}
	bits, ok := maskBits(m.As4())
	if !ok || a.IsUnspecified() || a.IsMulticast() {
		return netip.Prefix{}, fmt.Errorf("address %s with netmask %s: %w", a, m, ErrNetConfig)
	}
	return netip.PrefixFrom(a, bits), nil
}

// maskBits returns the prefix length of a contiguous, non-zero netmask.
func maskBits(m [4]byte) (int, bool) {
	v := uint32(m[0])<<24 | uint32(m[1])<<16 | uint32(m[2])<<8 | uint32(m[3])
	bits := 0
	for ; v&(1<<31) != 0; v <<= 1 {
		bits++
	}
	return bits, v == 0 && bits > 0
}

func parseOptional(what, s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return netip.Addr{}, fmt.Errorf("%s %q is not an IPv4 address: %w", what, s, ErrNetConfig)
	}
	return a, nil
}

func (c *NetConfig) checkNames() error {
	if len(c.Device) > maxInterfaceName || strings.ContainsAny(c.Device, "/.") {
		return fmt.Errorf("device %q: %w", c.Device, ErrNetConfig)
	}
	if !validHostname(c.Hostname) {
		return fmt.Errorf("hostname %q: %w", c.Hostname, ErrNetConfig)
	}
	return nil
}

// validHostname accepts the empty name and what RFC 1123 allows, up to the
// kernel's limit of 64 bytes.
func validHostname(s string) bool {
	if len(s) > 64 {
		return false
	}
	for _, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (r < '0' || r > '9') && r != '-' && r != '.' {
			return false
		}
	}
	return true
}
