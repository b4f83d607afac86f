// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package netconf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"cocoon/agent/device"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lab is a network namespace of a test's own with a Network that configures it.
type lab struct {
	*Network
	t *testing.T
}

// noDevice is a Waiter of a machine without devices.
type noDevice struct{}

func (noDevice) WaitInterface(ctx context.Context, _ string) (string, error) {
	<-ctx.Done()
	return "", device.ErrNotFound
}

// knownDevice is a Waiter that knows one interface.
type knownDevice string

func (d knownDevice) WaitInterface(context.Context, string) (string, error) { return string(d), nil }

func newLab(t *testing.T, c Config) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	c.Namespace = newNamespace(t)
	if c.Devices == nil {
		c.Devices = noDevice{}
	}
	c.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return &lab{Network: n, t: t}
}

// newNamespace makes a network namespace that lasts as long as the test, and
// returns a path of it.
func newNamespace(t *testing.T) string {
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
	return fmt.Sprintf("/proc/self/fd/%d", r.f.Fd())
}

// do runs f with a handle of the namespace.
func (l *lab) do(f func(*netlink.Handle) error) {
	l.t.Helper()
	if err := l.withHandle(l.t.Context(), f); err != nil {
		l.t.Fatal(err)
	}
}

// pair makes two connected interfaces. The first has the hardware address mac.
func (l *lab) pair(name, peer, mac string) {
	l.t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		l.t.Fatal(err)
	}
	l.do(func(h *netlink.Handle) error {
		a := netlink.NewLinkAttrs()
		a.Name, a.HardwareAddr = name, hw
		return h.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: peer})
	})
}

func (l *lab) up(names ...string) {
	l.t.Helper()
	l.do(func(h *netlink.Handle) error {
		for _, name := range names {
			link, err := h.LinkByName(name)
			if err != nil {
				return err
			}
			if err := h.LinkSetUp(link); err != nil {
				return err
			}
		}
		return nil
	})
}

func (l *lab) address(name, prefix string) {
	l.t.Helper()
	a, err := netlink.ParseAddr(prefix)
	if err != nil {
		l.t.Fatal(err)
	}
	l.do(func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		return errors.Join(err, h.AddrAdd(link, a))
	})
}

// attrs returns what the kernel says about an interface, or nil.
func (l *lab) attrs(name string) *netlink.LinkAttrs {
	l.t.Helper()
	var found *netlink.LinkAttrs
	l.do(func(h *netlink.Handle) error {
		link, err := linkByName(h, name)
		if err == nil {
			found = link.Attrs()
		} else if !errors.Is(err, ErrNoLink) {
			return err
		}
		return nil
	})
	return found
}

// state is everything in the namespace that a request could change, for
// comparison.
func (l *lab) state() string {
	l.t.Helper()
	text := ""
	l.do(func(h *netlink.Handle) error {
		links, err := h.LinkList()
		if err != nil {
			return err
		}
		for _, link := range links {
			a := link.Attrs()
			addrs, err := h.AddrList(link, netlink.FAMILY_V4)
			if err != nil {
				return err
			}
			text += fmt.Sprintln(a.Index, a.Name, a.HardwareAddr, a.MTU, a.Flags&net.FlagUp, a.RawFlags&unix.IFF_NOARP, addrs)
		}
		routes, err := h.RouteList(nil, netlink.FAMILY_V4)
		text += fmt.Sprintln(routes)
		return err
	})
	return text
}
