// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"cocoon/agent/device"
	"cocoon/agent/netconf"
	"cocoon/internal/wire/agentpb"
	"cocoon/internal/wire/typespb"
)

// ownNetwork is a network namespace of the test's own, so that no request
// reaches the network of the machine. It has one pair of interfaces and knows no
// devices and no iptables.
func ownNetwork(t *testing.T) *netconf.Network {
	t.Helper()
	type result struct {
		f   *os.File
		err error
	}
	made := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{err: err}
			return
		}
		a := netlink.NewLinkAttrs()
		a.Name, a.HardwareAddr = "ens1", net.HardwareAddr{2, 0, 0xca, 0xfe, 0, 1}
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "far"}); err != nil {
			made <- result{err: err}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		made <- result{f, err}
	}()
	r := <-made
	if r.err != nil {
		t.Fatalf("make network namespace: %v", r.err)
	}
	t.Cleanup(func() {
		if err := r.f.Close(); err != nil {
			t.Error(err)
		}
	})
	n, err := netconf.New(netconf.Config{
		Namespace: fmt.Sprintf("/proc/self/fd/%d", r.f.Fd()), Devices: device.New(device.Config{Sys: t.TempDir()}), HotplugTimeout: 1,
		ToolDirs: []string{"/absent"}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The codes and texts that peers act upon.
func TestNetworkErrorsHaveTheCodesAndTextsThatPeersKnow(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	update := func(i *typespb.Interface) error {
		_, err := g.UpdateInterface(limited(t), &agentpb.UpdateInterfaceRequest{Interface: i})
		return err
	}
	routes := func(r *agentpb.Routes) error {
		_, err := g.UpdateRoutes(limited(t), &agentpb.UpdateRoutesRequest{Routes: r})
		return err
	}
	neighbours := func(n *agentpb.ARPNeighbors) error {
		_, err := g.AddARPNeighbors(limited(t), &agentpb.AddARPNeighborsRequest{Neighbors: n})
		return err
	}
	tables := func(data string) error {
		_, err := g.SetIPTables(limited(t), &agentpb.SetIPTablesRequest{Data: []byte(data)})
		return err
	}
	_, save := g.GetIPTables(limited(t), &agentpb.GetIPTablesRequest{IsIpv6: true})
	ip := &typespb.IPAddress{Address: "10.0.0.1"}
	for _, tc := range []struct {
		err  error
		code codes.Code
		text string
	}{
		{update(nil), codes.InvalidArgument, "empty update interface request: invalid request"},
		{routes(nil), codes.InvalidArgument, "empty update routes request: invalid request"},
		{neighbours(nil), codes.InvalidArgument, "empty add arp neighbours request: invalid request"},
		{update(&typespb.Interface{}), codes.InvalidArgument, `update interface: interface name "": invalid network request`},
		{update(&typespb.Interface{Name: "lo"}), codes.InvalidArgument, "update interface: the loopback interface is the guest's own: invalid network request"},
		{update(&typespb.Interface{Name: "eth0", HwAddr: "02:00:00:00:00:01"}), codes.Internal, `update interface "eth0": Link not found (hardware address 02:00:00:00:00:01)`},
		{update(&typespb.Interface{Name: "eth0"}), codes.Internal, `update interface "eth0": Link not found (name "eth0")`},
		{update(&typespb.Interface{Name: "eth0", DevicePath: "02/01"}), codes.Internal, `update interface "eth0": wait for device "02/01": interface not available`},
		{update(&typespb.Interface{Name: "eth0", Mtu: 1}), codes.InvalidArgument, "update interface: MTU 1: invalid network request"},
		{routes(&agentpb.Routes{Routes: []*typespb.Route{{Device: "eth0", Dest: "x"}}}), codes.InvalidArgument, `update routes: route 0: destination: prefix "x": invalid network request`},
		{routes(&agentpb.Routes{Routes: []*typespb.Route{{Device: "eth0"}}}), codes.Internal, `update routes: route to 0.0.0.0/0: Link not found (name "eth0")`},
		{neighbours(&agentpb.ARPNeighbors{ARPNeighbors: []*typespb.ARPNeighbor{{}}}), codes.InvalidArgument, `add neighbours: neighbour 0: interface name "": invalid network request`},
		{neighbours(&agentpb.ARPNeighbors{ARPNeighbors: []*typespb.ARPNeighbor{{Device: "eth0", Lladdr: "02:00:00:00:00:01", ToIPAddress: ip}}}), codes.Internal, `add neighbours: neighbour 10.0.0.1: Link not found (name "eth0")`},
		{save, codes.Internal, "ip6tables-save: not in /absent: iptables is not installed in the guest"},
		{tables(""), codes.Internal, "iptables-restore: not in /absent: iptables is not installed in the guest"},
		{tables("*filter\n-A INPUT -M /x\n"), codes.InvalidArgument, "rule in line 2 names a program to run: invalid network request"},
	} {
		if s := status.Convert(tc.err); s.Code() != tc.code || s.Message() != tc.text {
			t.Errorf("%v %q, want %v %q", s.Code(), s.Message(), tc.code, tc.text)
		}
	}
}

func TestTheNetworkIsConfiguredAsAShimDoes(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	asked := &typespb.Interface{
		Device: "eth0", Name: "eth0", HwAddr: "02:00:ca:fe:00:01", Mtu: 1450, IPAddresses: []*typespb.IPAddress{{Address: "10.244.0.9", Mask: "24"}},
	}
	got, err := g.UpdateInterface(limited(t), &agentpb.UpdateInterfaceRequest{Interface: asked})
	if err != nil || !proto.Equal(got, asked) {
		t.Fatalf("%v (%v)", got, err)
	}
	if _, err := g.UpdateInterface(limited(t), &agentpb.UpdateInterfaceRequest{Interface: &typespb.Interface{Name: "far"}}); err != nil {
		t.Fatal(err)
	}
	want := &typespb.Route{Dest: "0.0.0.0", Gateway: "10.244.0.1", Device: "eth0"}
	all, err := g.UpdateRoutes(limited(t), &agentpb.UpdateRoutesRequest{Routes: &agentpb.Routes{Routes: []*typespb.Route{
		{Gateway: "10.244.0.1", Device: "eth0"}, {Dest: "10.244.0.0/24", Device: "eth0", Source: "10.244.0.9", Scope: 253},
	}}})
	if err != nil || !slices.ContainsFunc(all.GetRoutes(), func(r *typespb.Route) bool { return proto.Equal(r, want) }) {
		t.Errorf("%v (%v)", all, err)
	}
	_, err = g.AddARPNeighbors(limited(t), &agentpb.AddARPNeighborsRequest{Neighbors: &agentpb.ARPNeighbors{ARPNeighbors: []*typespb.ARPNeighbor{
		{ToIPAddress: &typespb.IPAddress{Address: "10.244.0.1"}, Device: "eth0", Lladdr: "ee:ee:ee:ee:ee:ee", State: 128},
	}}})
	if err != nil {
		t.Error(err)
	}
}

func TestTheNetworkIsListedAsItIs(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	links, err := g.ListInterfaces(limited(t), &agentpb.ListInterfacesRequest{})
	if err != nil || !slices.ContainsFunc(links.GetInterfaces(), func(i *typespb.Interface) bool { return i.GetName() == "lo" && i.GetMtu() == 65536 }) {
		t.Errorf("%v (%v)", links, err)
	}
	for _, update := range []bool{true, false} {
		var all *agentpb.Routes
		if update {
			all, err = g.UpdateRoutes(limited(t), &agentpb.UpdateRoutesRequest{Routes: &agentpb.Routes{}})
		} else {
			all, err = g.ListRoutes(limited(t), &agentpb.ListRoutesRequest{})
		}
		if err != nil || len(all.GetRoutes()) > 0 {
			t.Errorf("routes of an empty namespace: %v (%v)", all, err)
		}
	}
}

func TestNoNetworkRequestIsCarriedOutWithoutThePolicy(t *testing.T) {
	t.Parallel()
	calls := map[string]func(context.Context, *guest) error{
		"UpdateInterfaceRequest": func(ctx context.Context, g *guest) error {
			_, err := g.UpdateInterface(ctx, &agentpb.UpdateInterfaceRequest{Interface: &typespb.Interface{Name: "eth0"}})
			return err
		},
		"UpdateRoutesRequest": func(ctx context.Context, g *guest) error {
			_, err := g.UpdateRoutes(ctx, &agentpb.UpdateRoutesRequest{})
			return err
		},
		"ListInterfacesRequest": func(ctx context.Context, g *guest) error {
			_, err := g.ListInterfaces(ctx, &agentpb.ListInterfacesRequest{})
			return err
		},
		"ListRoutesRequest": func(ctx context.Context, g *guest) error {
			_, err := g.ListRoutes(ctx, &agentpb.ListRoutesRequest{})
			return err
		},
		"AddARPNeighborsRequest": func(ctx context.Context, g *guest) error {
			_, err := g.AddARPNeighbors(ctx, &agentpb.AddARPNeighborsRequest{})
			return err
		},
		"GetIPTablesRequest": func(ctx context.Context, g *guest) error {
			_, err := g.GetIPTables(ctx, &agentpb.GetIPTablesRequest{})
			return err
		},
		"SetIPTablesRequest": func(ctx context.Context, g *guest) error {
			_, err := g.SetIPTables(ctx, &agentpb.SetIPTablesRequest{})
			return err
		},
	}
	denial := "package agent_policy\n"
	for name := range calls {
		denial += "default " + name + " := false\n"
	}
	g := newGuest(t, guestOptions{policy: denial})
	for name, call := range calls {
		wantStatus(t, call(limited(t), g), codes.PermissionDenied, name+" is blocked by policy")
	}
}
