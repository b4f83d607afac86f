// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

const (
	// dhcpLimit bounds the wait for an address.
	dhcpLimit = 60 * time.Second
	// dhcpTry is how long one request is waited for.
	dhcpTry     = 2 * time.Second
	dhcpRetries = 30

	// maxDNS bounds the name servers that are used; resolvers read no more.
	maxDNS = 3
)

// ErrLease is wrapped by every error about what a DHCP server says.
var ErrLease = errors.New("unusable DHCP lease")

// Lease is what a DHCP server gives to the machine. It is not renewed: the
// clouds that lend an address keep it for the machine as long as it runs, and
// a pod does not outlive its machine.
type Lease struct {
	Address netip.Prefix
	Gateway netip.Addr // the zero value means no route
	DNS     []netip.Addr
}

// askDHCP asks for a lease on link, which is up.
func askDHCP(ctx context.Context, link string) (lease Lease, err error) {
	ctx, cancel := context.WithTimeout(ctx, dhcpLimit)
	defer cancel()
	c, err := nclient4.New(link, nclient4.WithTimeout(dhcpTry), nclient4.WithRetry(dhcpRetries))
	if err != nil {
		return Lease{}, fmt.Errorf("open DHCP socket: %w", err)
	}
	defer func() {
		if e := c.Close(); e != nil && !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}()
	got, err := c.Request(ctx, dhcpv4.WithRequestedOptions(
		dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionClasslessStaticRoute))
	if err != nil {
		return Lease{}, fmt.Errorf("ask for a DHCP lease: %w", err)
	}
	return readLease(got.ACK)
}

// readLease takes from a server's answer what is needed. The answer is the
// host's, as the whole network is.
func readLease(m *dhcpv4.DHCPv4) (Lease, error) {
	var l Lease
	ip, ok := netip.AddrFromSlice(m.YourIPAddr.To4())
	mask := m.SubnetMask()
	bits, size := mask.Size()
	if !ok || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback() || size != 32 || bits == 0 {
		return l, fmt.Errorf("address %v with netmask %v: %w", m.YourIPAddr, net.IP(mask), ErrLease)
	}
	l.Address = netip.PrefixFrom(ip, bits)
	l.Gateway = gatewayOf(m)
	for _, server := range m.DNS() {
		if a, ok := netip.AddrFromSlice(server.To4()); ok && len(l.DNS) < maxDNS {
			l.DNS = append(l.DNS, a)
		}
	}
	return l, nil
}

// gatewayOf returns where the default route leads. The list of routes counts
// more than the router, as RFC 3442 says.
func gatewayOf(m *dhcpv4.DHCPv4) netip.Addr {
	routes := m.ClasslessStaticRoute()
	for _, r := range routes {
		if r == nil || r.Dest == nil {
			continue
		}
		if bits, _ := r.Dest.Mask.Size(); bits == 0 {
			return validGateway(r.Router)
		}
	}
	if routers := m.Router(); len(routes) == 0 && len(routers) > 0 {
		return validGateway(routers[0])
	}
	return netip.Addr{}
}

func validGateway(ip net.IP) netip.Addr {
	a, ok := netip.AddrFromSlice(ip.To4())
	if !ok || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		return netip.Addr{}
	}
	return a
}
