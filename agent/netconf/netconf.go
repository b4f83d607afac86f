// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package netconf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	// ErrInvalid is returned for a request that is not sound. Nothing of it has
	// been carried out.
	ErrInvalid = errors.New("invalid network request")

	// ErrNoLink is returned when no interface fits a request. Shims look for
	// its text and try again, because the interface may be on its way.
	ErrNoLink = errors.New("Link not found") //nolint:staticcheck // the spelling that peers look for

	// ErrNoDevice is returned when a device does not appear in time.
	ErrNoDevice = errors.New("interface not available")
)

const (
	// hotplugLimit is how long a device may take to appear, unless the
	// configuration says otherwise.
	hotplugLimit = 3 * time.Second

	// netlinkLimit bounds one exchange with the kernel.
	netlinkLimit = 10 * time.Second
)

// Waiter finds the network interface of a device that may still be on its way.
type Waiter interface {
	// WaitInterface returns the name of the interface of the device at a PCI
	// path ("02/01") or with a CCW bus id ("0.0.0001"). It ends with ctx; that
	// there is no such device by then is device.ErrNotFound.
	WaitInterface(ctx context.Context, device string) (string, error)
}

// Config says which network is configured and how.
type Config struct {
	// Namespace is the path of the network namespace; "" is the process's own.
	Namespace string
	// Devices finds hot-plugged devices. It must not be nil.
	Devices Waiter
	// HotplugTimeout is how long a device may take to appear; 0 means 3 s.
	HotplugTimeout time.Duration
	// ToolDirs are searched for the programs of iptables, in this order; none
	// means /usr/sbin, /sbin.
	ToolDirs []string
	// Log is readable by the host; nil discards.
	Log *slog.Logger
}

// Network configures one network namespace. Its methods are safe for
// concurrent use.
type Network struct {
	cfg  Config
	turn chan struct{} // holds a token while a request changes the network
}

// New returns a Network. It does not touch the system.
func New(c Config) (*Network, error) {
	if c.Devices == nil {
		return nil, errors.New("new network: nothing to find devices with")
	}
	if c.HotplugTimeout == 0 {
		c.HotplugTimeout = hotplugLimit
	}
	if len(c.ToolDirs) == 0 {
		c.ToolDirs = []string{"/usr/sbin", "/sbin"}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Network{cfg: c, turn: make(chan struct{}, 1)}, nil
}

// exclusive runs f in the namespace, one f at a time.
func (n *Network) exclusive(ctx context.Context, f func() error) error {
	select {
	case n.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("wait for another network request: %w", ctx.Err())
	}
	defer func() { <-n.turn }()
	if err := ctx.Err(); err != nil {
		return err
	}
	if n.cfg.Namespace == "" {
		return f()
	}
	return inNamespace(n.cfg.Namespace, f)
}

// withHandle runs f with a netlink handle of the namespace, one f at a time.
func (n *Network) withHandle(ctx context.Context, f func(*netlink.Handle) error) error {
	return n.exclusive(ctx, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink socket: %w", err)
		}
		defer h.Close()
		if err := h.SetSocketTimeout(netlinkLimit); err != nil {
			return fmt.Errorf("bound netlink socket: %w", err)
		}
		return f(h)
	})
}

// inNamespace runs f on a thread of its own in the network namespace at path.
// The thread ends with f, so that no other goroutine ever runs there.
func inNamespace(path string, f func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close() // read only; its error says nothing
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// linkByName finds an interface; that there is none is ErrNoLink.
func linkByName(h *netlink.Handle, name string) (netlink.Link, error) {
	l, err := h.LinkByName(name)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none || errors.Is(err, unix.ENODEV) {
		return nil, fmt.Errorf("%w (name %q)", ErrNoLink, name)
	}
	if err != nil {
		return nil, fmt.Errorf("look up interface %q: %w", name, err)
	}
	return l, nil
}
