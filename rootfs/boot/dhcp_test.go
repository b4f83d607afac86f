// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func ack(t testing.TB, with ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithYourIP(net.IPv4(10, 1, 2, 3)), dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithMessageType(dhcpv4.MessageTypeAck),
	}, with...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func defaultRoute(via net.IP) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(
		&dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4(10, 1, 0, 1), Mask: net.CIDRMask(32, 32)}, Router: net.IPv4zero},
		&dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, Router: via}))
}

func TestALeaseIsRead(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		m    *dhcpv4.DHCPv4
		want Lease
	}{
		"plain": {ack(t, dhcpv4.WithRouter(net.IPv4(10, 1, 2, 1)), dhcpv4.WithDNS(net.IPv4(1, 1, 1, 1), net.IPv4(2, 2, 2, 2), net.IPv4(3, 3, 3, 3), net.IPv4(4, 4, 4, 4))),
			Lease{netip.MustParsePrefix("10.1.2.3/24"), netip.MustParseAddr("10.1.2.1"),
				[]netip.Addr{netip.MustParseAddr("1.1.1.1"), netip.MustParseAddr("2.2.2.2"), netip.MustParseAddr("3.3.3.3")}}},
		"a network of one address": {ack(t, dhcpv4.WithNetmask(net.CIDRMask(32, 32)), dhcpv4.WithRouter(net.IPv4(9, 9, 9, 9)), defaultRoute(net.IPv4(10, 1, 0, 1))),
			Lease{netip.MustParsePrefix("10.1.2.3/32"), netip.MustParseAddr("10.1.0.1"), nil}},
		"no way out":      {ack(t), Lease{netip.MustParsePrefix("10.1.2.3/24"), netip.Addr{}, nil}},
		"a bad gateway":   {ack(t, dhcpv4.WithRouter(net.IPv4(127, 0, 0, 1))), Lease{netip.MustParsePrefix("10.1.2.3/24"), netip.Addr{}, nil}},
		"a multicast one": {ack(t, defaultRoute(net.IPv4(224, 0, 0, 1))), Lease{netip.MustParsePrefix("10.1.2.3/24"), netip.Addr{}, nil}},
	} {
		got, err := readLease(tc.m)
		if err != nil || got.Address != tc.want.Address || got.Gateway != tc.want.Gateway || !slices.Equal(got.DNS, tc.want.DNS) {
			t.Errorf("%s: %+v (%v), want %+v", name, got, err, tc.want)
		}
	}
}

func TestALeaseThatIsOfNoUseIsRefused(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]*dhcpv4.DHCPv4{
		"no address":    ack(t, dhcpv4.WithYourIP(net.IPv4zero)),
		"multicast":     ack(t, dhcpv4.WithYourIP(net.IPv4(224, 0, 0, 9))),
		"loopback":      ack(t, dhcpv4.WithYourIP(net.IPv4(127, 0, 0, 1))),
		"no netmask":    ack(t, dhcpv4.WithNetmask(nil)),
		"holes in mask": ack(t, dhcpv4.WithNetmask(net.IPv4Mask(255, 0, 255, 0))),
		"mask of all":   ack(t, dhcpv4.WithNetmask(net.CIDRMask(0, 32))),
	} {
		if l, err := readLease(m); !errors.Is(err, ErrLease) {
			t.Errorf("%s: %+v (%v)", name, l, err)
		}
	}
}

func FuzzReadLease(f *testing.F) {
	f.Add(ack(f, dhcpv4.WithRouter(net.IPv4(10, 1, 2, 1)), defaultRoute(net.IPv4(10, 1, 0, 1))).ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		if l, err := readLease(m); err == nil && (!l.Address.IsValid() || !l.Address.Addr().Is4() || len(l.DNS) > maxDNS) {
			t.Fatalf("%+v", l)
		}
	})
}

// inOwnNetwork runs f in a network namespace with a cable between the
// interfaces near and far.
func inOwnNetwork(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		a := netlink.NewLinkAttrs()
		a.Name = "near"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "far"}); err != nil {
			t.Error(err)
			return
		}
		if err := errors.Join(linkSetUp("near"), linkSetUp("far"), linkAddress("far", netip.MustParsePrefix("10.1.2.1/24"))); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

// serveDHCP answers every request with the lease until the test ends.
func serveDHCP(t *testing.T, ignore int) (stop func()) {
	t.Helper()
	s, err := server4.NewServer("far", &net.UDPAddr{IP: net.IPv4zero, Port: 67}, func(conn net.PacketConn, peer net.Addr, m *dhcpv4.DHCPv4) {
		if ignore > 0 {
			ignore--
			return
		}
		kind := dhcpv4.MessageTypeOffer
		if m.MessageType() == dhcpv4.MessageTypeRequest {
			kind = dhcpv4.MessageTypeAck
		}
		answer, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(net.IPv4(10, 1, 2, 3)),
			dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithRouter(net.IPv4(10, 1, 2, 1)), dhcpv4.WithDNS(net.IPv4(10, 1, 2, 2)),
			dhcpv4.WithServerIP(net.IPv4(10, 1, 2, 1)), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 1, 2, 1))))
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := conn.WriteTo(answer.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 68}); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve() // ends with an error when it is closed
	}()
	return func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		<-done
	}
}

func TestAServerGivesTheMachineItsNetwork(t *testing.T) {
	t.Parallel()
	inOwnNetwork(t, func() {
		defer serveDHCP(t, 1)() // a network may swallow the first packets
		l, err := askDHCP(t.Context(), "near")
		if err != nil || l.Address.String() != "10.1.2.3/24" || l.Gateway.String() != "10.1.2.1" || len(l.DNS) != 1 {
			t.Errorf("%+v (%v)", l, err)
			return
		}
		if err := errors.Join(linkAddress("near", l.Address), linkRoute("near", netip.MustParseAddr("10.200.0.1"))); err != nil {
			t.Errorf("a gateway outside of the network: %v", err)
		}
	})
}

func TestANetworkWithoutServerIsAnErrorInTime(t *testing.T) {
	t.Parallel()
	inOwnNetwork(t, func() {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if l, err := askDHCP(ctx, "near"); err == nil {
			t.Errorf("%+v", l)
		}
		if l, err := askDHCP(t.Context(), "absent"); err == nil {
			t.Errorf("%+v", l)
		}
	})
}
