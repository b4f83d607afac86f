// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package netconf

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"cocoon/internal/wire/typespb"
)

// routed is a lab with eth0 up, 10.1.0.5/24 and fd00::5/64.
func routed(t *testing.T) *lab {
	t.Helper()
	l := newLab(t, Config{})
	l.pair("eth0", "far", mac1)
	l.up("far")
	err := l.UpdateInterface(t.Context(), &typespb.Interface{
		Name: "eth0", HwAddr: mac1, IPAddresses: []*typespb.IPAddress{v4("10.1.0.5", "24"), v4("fd00::5", "64")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestRoutesAreMadeInAnOrderThatWorks(t *testing.T) {
	t.Parallel()
	l := routed(t)
	// The gateway of the first is reached by the second only.
	routes := []*typespb.Route{
		{Dest: "", Gateway: "169.254.1.1", Device: "eth0"},
		{Dest: "169.254.1.1", Device: "eth0", Scope: unix.RT_SCOPE_LINK, Source: "10.1.0.5"},
		{Dest: "172.16.0.0/12", Gateway: "10.1.0.1", Device: "eth0", Mtu: 1300},
		{Dest: "fd01::/64", Gateway: "fd00::1", Device: "eth0", Family: typespb.IPFamily_v6},
	}
	for range 2 { // a repetition changes nothing
		all, err := l.UpdateRoutes(t.Context(), routes)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []*typespb.Route{
			{Dest: "0.0.0.0", Gateway: "169.254.1.1", Device: "eth0"},
			{Dest: "169.254.1.1/32", Device: "eth0", Scope: unix.RT_SCOPE_LINK, Source: "10.1.0.5"},
			{Dest: "172.16.0.0/12", Gateway: "10.1.0.1", Device: "eth0", Mtu: 1300},
			{Dest: "10.1.0.0/24", Device: "eth0", Scope: unix.RT_SCOPE_LINK, Source: "10.1.0.5"},
			{Dest: "fd01::/64", Gateway: "fd00::1", Device: "eth0", Family: typespb.IPFamily_v6},
		} {
			n := 0
			for _, r := range all {
				if proto.Equal(r, want) {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%v is there %d times in %v", want, n, all)
			}
		}
		listed, err := l.ListRoutes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all { // the kernel may have added link-local ones since
			if !slices.ContainsFunc(listed, func(l *typespb.Route) bool { return proto.Equal(l, r) }) {
				t.Errorf("%v is returned and not listed in %v", r, listed)
			}
		}
	}
}

func TestTheDefaultRouteHasManySpellings(t *testing.T) {
	t.Parallel()
	for _, dest := range []string{"", "0.0.0.0/0", "::ffff:0.0.0.0/0"} {
		l := routed(t)
		all, err := l.UpdateRoutes(t.Context(), []*typespb.Route{{Dest: dest, Gateway: "10.1.0.1", Device: "eth0"}})
		if err != nil || !slices.ContainsFunc(all, func(r *typespb.Route) bool { return r.GetDest() == "0.0.0.0" && r.GetGateway() == "10.1.0.1" }) {
			t.Errorf("%q: %v (%v)", dest, all, err)
		}
		all, err = l.UpdateRoutes(t.Context(), []*typespb.Route{{Gateway: "fd00::1", Device: "eth0"}})
		if err != nil || !slices.ContainsFunc(all, func(r *typespb.Route) bool { return r.GetDest() == "::1" && r.GetGateway() == "fd00::1" }) {
			t.Errorf("IPv6: %v (%v)", all, err)
		}
	}
}

func TestTheFamilyOfARouteFollowsItsAddresses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		r    *typespb.Route
		want string
	}{
		{&typespb.Route{Device: "a"}, "0.0.0.0/0"},
		{&typespb.Route{Device: "a", Family: typespb.IPFamily_v6}, "::/0"},
		{&typespb.Route{Device: "a", Gateway: "fd00::1"}, "::/0"},
		{&typespb.Route{Device: "a", Gateway: "10.0.0.1", Family: typespb.IPFamily_v6}, "0.0.0.0/0"},
		{&typespb.Route{Device: "a", Source: "fd00::1/128"}, "::/0"},
		{&typespb.Route{Device: "a", Dest: "::ffff:10.0.0.0/104"}, "10.0.0.0/8"},
		{&typespb.Route{Device: "a", Dest: "10.0.0.7"}, "10.0.0.7/32"},
	} {
		got, err := parseRoute(tc.r)
		if err != nil || got.dest.String() != tc.want {
			t.Errorf("%v: %v (%v), want %s", tc.r, got.dest, err, tc.want)
		}
	}
}

func TestRefusedRoutesChangeNothing(t *testing.T) {
	t.Parallel()
	l := routed(t)
	before := l.state()
	good := &typespb.Route{Dest: "172.16.0.0/12", Gateway: "10.1.0.1", Device: "eth0"}
	for name, tc := range map[string]struct {
		r    *typespb.Route
		want error
	}{
		"nil":                  {nil, ErrInvalid},
		"no device":            {&typespb.Route{Dest: "10.9.0.0/16"}, ErrInvalid},
		"odd device":           {&typespb.Route{Dest: "10.9.0.0/16", Device: "../x"}, ErrInvalid},
		"bits outside":         {&typespb.Route{Dest: "10.9.0.1/16", Device: "eth0"}, ErrInvalid},
		"long prefix":          {&typespb.Route{Dest: "10.9.0.0/33", Device: "eth0"}, ErrInvalid},
		"two prefixes":         {&typespb.Route{Dest: "10.9.0.0/16/8", Device: "eth0"}, ErrInvalid},
		"empty prefix":         {&typespb.Route{Dest: "10.9.0.0/", Device: "eth0"}, ErrInvalid},
		"mapped prefix":        {&typespb.Route{Dest: "::ffff:0.0.0.0/64", Device: "eth0"}, ErrInvalid},
		"long text":            {&typespb.Route{Dest: string(make([]byte, 1<<20)), Device: "eth0"}, ErrInvalid},
		"name for a gateway":   {&typespb.Route{Gateway: "gw", Device: "eth0"}, ErrInvalid},
		"unspecified gateway":  {&typespb.Route{Gateway: "0.0.0.0", Device: "eth0"}, ErrInvalid},
		"multicast gateway":    {&typespb.Route{Gateway: "224.0.0.1", Device: "eth0"}, ErrInvalid},
		"zone":                 {&typespb.Route{Gateway: "fe80::1%eth0", Device: "eth0"}, ErrInvalid},
		"mixed gateway":        {&typespb.Route{Dest: "10.9.0.0/16", Gateway: "fd00::1", Device: "eth0"}, ErrInvalid},
		"mixed source":         {&typespb.Route{Dest: "fd09::/64", Source: "10.1.0.5", Device: "eth0"}, ErrInvalid},
		"gateway, source":      {&typespb.Route{Gateway: "10.1.0.1", Source: "fd00::5", Device: "eth0"}, ErrInvalid},
		"source is a prefix":   {&typespb.Route{Dest: "10.9.0.0/16", Source: "10.1.0.0/24", Device: "eth0"}, ErrInvalid},
		"scope too large":      {&typespb.Route{Dest: "10.9.0.0/16", Scope: 256, Device: "eth0"}, ErrInvalid},
		"flags too large":      {&typespb.Route{Dest: "10.9.0.0/16", Flags: 1 << 31, Device: "eth0"}, ErrInvalid},
		"MTU too large":        {&typespb.Route{Dest: "10.9.0.0/16", Mtu: 1 << 31, Device: "eth0"}, ErrInvalid},
		"MTU too small":        {&typespb.Route{Dest: "10.9.0.0/16", Mtu: 1, Device: "eth0"}, ErrInvalid},
		"absent device":        {&typespb.Route{Dest: "10.9.0.0/16", Device: "eth9"}, ErrNoLink},
		"gateway out of reach": {&typespb.Route{Dest: "10.0.0.0/9", Gateway: "192.0.2.1", Device: "eth0"}, unix.ENETUNREACH},
	} {
		list := []*typespb.Route{tc.r}
		if errors.Is(tc.want, ErrInvalid) {
			list = append(list, good) // nothing of an unsound request is done
		}
		if _, err := l.UpdateRoutes(t.Context(), list); !errors.Is(err, tc.want) {
			t.Errorf("%s: error %v, want %v", name, err, tc.want)
		}
		if after := l.state(); after != before {
			t.Fatalf("%s changed\n%s\nto\n%s", name, before, after)
		}
	}
	if _, err := l.UpdateRoutes(t.Context(), slices.Repeat([]*typespb.Route{good}, maxRoutes+1)); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.UpdateRoutes(gone, []*typespb.Route{good}); !errors.Is(err, context.Canceled) || l.state() != before {
		t.Error(err)
	}
}

// neighbours returns the entries of a table with their states.
func (l *lab) neighbours(family, flags int) []string {
	l.t.Helper()
	var all []string
	l.do(func(h *netlink.Handle) error {
		link, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		list, err := h.NeighListExecute(netlink.Ndmsg{Family: uint8(family), Index: uint32(link.Attrs().Index), Flags: uint8(flags)})
		for _, n := range list {
			if n.State == unix.NUD_PERMANENT || flags != 0 {
				all = append(all, n.IP.String()+" "+n.HardwareAddr.String())
			}
		}
		return err
	})
	slices.Sort(all)
	return all
}

func neighbourOf(ip, mac string) *typespb.ARPNeighbor {
	return &typespb.ARPNeighbor{ToIPAddress: &typespb.IPAddress{Address: ip}, Device: "eth0", Lladdr: mac}
}

func TestNeighboursArePermanentUnlessTheRequestSaysOtherwise(t *testing.T) {
	t.Parallel()
	l := routed(t)
	stale := neighbourOf("10.1.0.9", mac2)
	stale.State = unix.NUD_STALE
	proxy := neighbourOf("10.1.0.77", "")
	proxy.Flags = unix.NTF_PROXY
	for _, mac := range []string{mac2, mac3} { // the second replaces the first
		err := l.AddNeighbors(t.Context(), []*typespb.ARPNeighbor{neighbourOf("10.1.0.1", mac), neighbourOf("fd00::1", mac), stale, proxy})
		if err != nil {
			t.Fatal(err)
		}
		if got := l.neighbours(netlink.FAMILY_V4, 0); !slices.Equal(got, []string{"10.1.0.1 " + mac}) {
			t.Errorf("%q", got)
		}
		if got := l.neighbours(netlink.FAMILY_V6, 0); !slices.Contains(got, "fd00::1 "+mac) {
			t.Errorf("%q", got)
		}
	}
	if got := l.neighbours(netlink.FAMILY_V4, unix.NTF_PROXY); !slices.Equal(got, []string{"10.1.0.77 "}) {
		t.Errorf("proxies %q", got)
	}
}

func TestRefusedNeighboursChangeNothing(t *testing.T) {
	t.Parallel()
	l := routed(t)
	good := neighbourOf("10.1.0.1", mac2)
	for name, change := range map[string]func(*typespb.ARPNeighbor){
		"no address":      func(n *typespb.ARPNeighbor) { n.ToIPAddress = nil },
		"empty address":   func(n *typespb.ARPNeighbor) { n.ToIPAddress = &typespb.IPAddress{} },
		"prefix":          func(n *typespb.ARPNeighbor) { n.ToIPAddress.Address = "10.1.0.1/24" },
		"multicast":       func(n *typespb.ARPNeighbor) { n.ToIPAddress.Address = "ff02::1" },
		"unspecified":     func(n *typespb.ARPNeighbor) { n.ToIPAddress.Address = "::" },
		"no device":       func(n *typespb.ARPNeighbor) { n.Device = "" },
		"no MAC":          func(n *typespb.ARPNeighbor) { n.Lladdr = "" },
		"odd MAC":         func(n *typespb.ARPNeighbor) { n.Lladdr = "02:zz" },
		"negative state":  func(n *typespb.ARPNeighbor) { n.State = -1 },
		"state too large": func(n *typespb.ARPNeighbor) { n.State = 1 << 16 },
		"negative flags":  func(n *typespb.ARPNeighbor) { n.Flags = -1 },
		"flags too large": func(n *typespb.ARPNeighbor) { n.Flags = 256 },
	} {
		n := neighbourOf("10.1.0.3", mac3)
		change(n)
		if err := l.AddNeighbors(t.Context(), []*typespb.ARPNeighbor{good, n}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := l.AddNeighbors(t.Context(), slices.Repeat([]*typespb.ARPNeighbor{good}, maxNeighbours+1)); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	n := neighbourOf("10.1.0.3", mac3)
	n.Device = "eth9"
	if err := l.AddNeighbors(t.Context(), []*typespb.ARPNeighbor{n}); !errors.Is(err, ErrNoLink) {
		t.Error(err)
	}
	if got := l.neighbours(netlink.FAMILY_V4, 0); len(got) > 0 {
		t.Errorf("%q", got)
	}
}

func FuzzRequests(f *testing.F) {
	f.Add("eth0", mac1, "02/01", "10.1.0.5", "24", "10.0.0.0/8", "10.0.0.1", uint64(1500), uint32(0))
	f.Add("eth%d", "x", "20/00/02", "fd00::1", "64", "::ffff:0.0.0.0/0", "fe80::1%a", uint64(1)<<63, uint32(1)<<31)
	f.Add("", "", "0.0.0001", "", "", "", "", uint64(0), uint32(300))
	f.Fuzz(func(t *testing.T, name, mac, device, address, mask, dest, gateway string, mtu uint64, n uint32) {
		w, err := parseInterface(&typespb.Interface{
			Name: name, HwAddr: mac, DevicePath: device, Mtu: mtu, IPAddresses: []*typespb.IPAddress{v4(address, mask)},
		})
		if err == nil && (len(w.name) > maxName || w.name == "lo" || uint64(w.mtu) != mtu || !w.addresses[0].IsValid() || w.addresses[0].Addr().IsLoopback()) {
			t.Errorf("accepted %+v", w)
		}
		r, err := parseRoute(&typespb.Route{Device: name, Dest: dest, Gateway: gateway, Source: address, Mtu: uint32(mtu), Scope: n, Flags: n})
		if err == nil && (!r.dest.IsValid() || r.dest.Masked() != r.dest || uint32(r.flags) != n || uint32(r.scope) != n) {
			t.Errorf("accepted %+v", r)
		}
		if err == nil && gateway != "" && r.gateway.Is6() != r.dest.Addr().Is6() {
			t.Errorf("accepted %+v", r)
		}
		nb, err := parseNeighbour(&typespb.ARPNeighbor{Device: name, Lladdr: mac, State: int32(n), Flags: int32(n), ToIPAddress: v4(address, mask)})
		if err == nil && (!nb.ip.IsValid() || nb.state <= 0 || nb.state > 255) {
			t.Errorf("accepted %+v", nb)
		}
	})
}
