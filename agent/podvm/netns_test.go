// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package podvm

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// newNetNS makes a network namespace for one test.
func newNetNS(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	path := filepath.Join(t.TempDir(), "netns", "podns")
	if err := MakeNetNS(path); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skipf("network namespaces need CAP_SYS_ADMIN: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := RemoveNetNS(path); err != nil {
			t.Errorf("remove: %v", err)
		}
	})
	return path
}

func currentNetNS(t *testing.T) string {
	t.Helper()
	var id string
	if err := onThread(func() (err error) { id, err = os.Readlink(threadNetNS); return err }); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestAListenerInANamespaceIsReachedFromThereOnly(t *testing.T) {
	t.Parallel()
	before := currentNetNS(t)
	path := newNetNS(t)
	l, err := ListenIn(t.Context(), path, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr().String()
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = c.Write([]byte("hello"))
			err = errors.Join(err, c.Close())
		}
		served <- err
	}()
	err = inNetNS(path, func() error {
		c, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		b, err := io.ReadAll(c)
		if string(b) != "hello" {
			t.Errorf("got %q", b)
		}
		return err
	})
	if err := errors.Join(err, <-served); err != nil {
		t.Fatal(err)
	}
	if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
		t.Error("reached from another namespace")
		c.Close()
	}
	if after := currentNetNS(t); after != before {
		t.Errorf("threads moved from %s to %s", before, after)
	}
}

func TestWorkloadsDoNotReachAMetadataService(t *testing.T) {
	t.Parallel()
	path := newNetNS(t)
	err := inNetNS(path, func() error {
		// A way to everywhere, as the tunnel is.
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth0"
		link := &netlink.Veth{LinkAttrs: attrs, PeerName: "far"}
		if err := netlink.LinkAdd(link); err != nil {
			return err
		}
		far, err := netlink.LinkByName("far")
		if err != nil {
			return err
		}
		if err := errors.Join(netlink.LinkSetUp(link), netlink.LinkSetUp(far)); err != nil {
			return err
		}
		for _, addr := range []string{"10.1.0.2/16", "fd99::2/64"} {
			a, err := netlink.ParseAddr(addr)
			if err != nil {
				return err
			}
			a.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(link, a); err != nil {
				return err
			}
		}
		for _, dst := range []string{"0.0.0.0/0", "::/0"} {
			_, all, err := net.ParseCIDR(dst)
			if err != nil {
				return err
			}
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: all}); err != nil {
				return err
			}
		}
		dial := func(host string) error {
			c, err := net.Dial("udp", net.JoinHostPort(host, "80"))
			if err != nil {
				return err
			}
			return c.Close()
		}
		for _, p := range metadataServices() {
			if err := dial(p.Addr().String()); !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ENETUNREACH) {
				t.Errorf("%v: %v", p.Addr(), err)
			}
		}
		return errors.Join(dial("169.254.169.253"), dial("8.8.8.8"), dial("fd00:ec2::255"))
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestMakingANamespaceTwiceKeepsIt(t *testing.T) {
	t.Parallel()
	path := newNetNS(t)
	var first, second unix.Stat_t
	if err := unix.Stat(path, &first); err != nil {
		t.Fatal(err)
	}
	if err := MakeNetNS(path); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(path, &second); err != nil || first.Ino != second.Ino {
		t.Fatalf("inode %d became %d, %v", first.Ino, second.Ino, err)
	}
}

func TestListeningInNoNamespaceIsAnError(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, file + "-absent"} {
		if l, err := ListenIn(t.Context(), path, "tcp", "127.0.0.1:0"); err == nil {
			t.Errorf("%s: listening on %s", path, l.Addr())
		}
	}
	l, err := ListenIn(t.Context(), "", "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// connect makes a network as in apf.json and runs ConnectPod in a namespace
// that stands for the guest's own, so that the machine's stays untouched.
func connect(t *testing.T, guest, pod string, n *PodNetwork) error {
	t.Helper()
	return inNetNS(guest, func() error { return ConnectPod(pod, n, nil) })
}

func network(t *testing.T) *PodNetwork {
	t.Helper()
	a, err := ParseAPF([]byte(apfJSON))
	if err != nil {
		t.Fatal(err)
	}
	return a.PodNetwork
}

func TestThePodsNetworkIsSetUpAndCanBeSetUpAgain(t *testing.T) {
	t.Parallel()
	guest, pod := newNetNS(t), newNetNS(t)
	n := network(t)
	for range 2 {
		if err := connect(t, guest, pod, n); err != nil {
			if errors.Is(err, unix.EOPNOTSUPP) {
				t.Skipf("the kernel has no VXLAN: %v", err)
			}
			t.Fatal(err)
		}
	}
	err := inNetNS(pod, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		v, ok := link.(*netlink.Vxlan)
		if !ok || v.VxlanId != 555002 || v.Port != 4789 || !v.Group.Equal(net.IPv4(192, 168, 1, 9)) || v.Learning || !v.UDPCSum {
			t.Errorf("device %+v", link)
		}
		a := link.Attrs()
		if a.MTU != 1450 || a.HardwareAddr.String() != "1a:c8:e2:34:5c:90" || a.Flags&net.FlagUp == 0 {
			t.Errorf("attributes %+v", a)
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err != nil || len(addrs) != 1 || addrs[0].IPNet.String() != "10.244.0.5/24" {
			t.Errorf("addresses %v, %v", addrs, err)
		}
		routes, err := netlink.RouteList(link, netlink.FAMILY_V4)
		if err != nil || len(routes) != 2 {
			t.Errorf("routes %v, %v", routes, err)
		}
		for _, r := range routes {
			byGateway := r.Gw.Equal(net.IPv4(10, 244, 0, 1)) && r.Protocol == unix.RTPROT_BOOT && r.Scope == netlink.SCOPE_UNIVERSE
			connected := r.Gw == nil && r.Dst.String() == "10.244.0.0/24" && r.Scope == netlink.SCOPE_LINK && r.Src == nil
			if !byGateway && !connected {
				t.Errorf("route %+v", r)
			}
		}
		neighbors, err := netlink.NeighList(a.Index, netlink.FAMILY_V4)
		if err != nil || len(neighbors) != 1 || neighbors[0].HardwareAddr.String() != "1a:c8:e2:34:5c:91" || neighbors[0].State != unix.NUD_PERMANENT {
			t.Errorf("neighbors %v, %v", neighbors, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	assertNoTunnel(t, guest)
}

func assertNoTunnel(t *testing.T, path string) {
	t.Helper()
	err := inNetNS(path, func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if l.Type() == "vxlan" {
				t.Errorf("device %q is left in %q", l.Attrs().Name, path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAFailedSetUpLeavesNoDeviceBehind(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(*PodNetwork){
		"gateway out of reach": func(n *PodNetwork) { n.Routes[0].Gateway = netip.MustParseAddr("10.9.9.9") },
		"route twice":          func(n *PodNetwork) { n.Routes = append(n.Routes, n.Routes[1]) },
		"other device":         func(n *PodNetwork) { n.Routes[1].Dev = "eth1" },
		"other neighbor":       func(n *PodNetwork) { n.Neighbors[0].Dev = "lo" },
		"multicast MAC":        func(n *PodNetwork) { n.HWAddr = net.HardwareAddr{1, 0, 0, 0, 0, 1} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			guest, pod := newNetNS(t), newNetNS(t)
			n := network(t)
			edit(n)
			if err := connect(t, guest, pod, n); err == nil {
				t.Error("no error")
			}
			assertNoTunnel(t, guest)
			assertNoTunnel(t, pod)
		})
	}
}

func TestTwoPodsTalkThroughTheirTunnel(t *testing.T) {
	t.Parallel()
	guestA, podA, guestB, podB := newNetNS(t), newNetNS(t), newNetNS(t), newNetNS(t)
	wire(t, guestA, guestB)
	side := func(ip, mac, worker string) *PodNetwork {
		m, err := net.ParseMAC(mac)
		if err != nil {
			t.Fatal(err)
		}
		return &PodNetwork{PodIP: netip.MustParsePrefix(ip), HWAddr: m, Interface: "eth0", WorkerIP: netip.MustParseAddr(worker), VXLANPort: 4789, VXLANID: 7,
			Routes: []Route{{Dst: netip.MustParsePrefix("10.244.0.0/24")}}}
	}
	if err := connect(t, guestA, podA, side("10.244.0.5/24", "02:00:00:00:00:0a", "192.0.2.2")); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			t.Skipf("the kernel has no VXLAN: %v", err)
		}
		t.Fatal(err)
	}
	if err := connect(t, guestB, podB, side("10.244.0.6/24", "02:00:00:00:00:0b", "192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	l, err := ListenIn(t.Context(), podB, "tcp", "10.244.0.6:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<14) // more than one packet
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = c.Write(big)
			err = errors.Join(err, c.Close())
		}
		served <- err
	}()
	err = inNetNS(podA, func() error {
		c, err := net.DialTimeout("tcp", "10.244.0.6:80", 10*time.Second)
		if err != nil {
			return errors.Join(err, l.Close())
		}
		defer c.Close()
		got, err := io.ReadAll(c)
		if !bytes.Equal(got, big) {
			t.Errorf("got %d bytes", len(got))
		}
		return err
	})
	if err := errors.Join(err, <-served); err != nil {
		t.Fatal(err)
	}
}

// wire joins two namespaces by a virtual cable: 192.0.2.1 and 192.0.2.2.
func wire(t *testing.T, a, b string) {
	t.Helper()
	up := func(name, addr string) error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		ip, err := netlink.ParseAddr(addr)
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(link, ip), netlink.LinkSetUp(link))
	}
	other, err := os.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	err = inNetNS(a, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "cable0"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "cable1"}); err != nil {
			return err
		}
		peer, err := netlink.LinkByName("cable1")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetNsFd(peer, int(other.Fd())), up("cable0", "192.0.2.1/24"))
	})
	if err := errors.Join(err, inNetNS(b, func() error { return up("cable1", "192.0.2.2/24") })); err != nil {
		t.Fatal(err)
	}
}

func TestADeviceOfAnotherKindIsNotRemoved(t *testing.T) {
	t.Parallel()
	guest, pod := newNetNS(t), newNetNS(t)
	err := inNetNS(pod, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth0"
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer"})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := connect(t, guest, pod, network(t)); !errors.Is(err, ErrNetwork) || !strings.Contains(err.Error(), "veth") {
		t.Fatalf("got %v", err)
	}
}
