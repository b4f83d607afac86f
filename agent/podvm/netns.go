// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package podvm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// nsfsMagic is the type of the file system that namespaces live on.
const nsfsMagic = 0x6e736673

// MakeNetNS makes a network namespace with its loopback device up and binds it
// to path. A namespace that is there already is kept, so that a repeated start
// finds its tunnel. It needs CAP_SYS_ADMIN.
func MakeNetNS(path string) error {
	ok, err := isNamespace(path)
	if err != nil {
		return fmt.Errorf("look at network namespace %q: %w", path, err)
	}
	if !ok {
		if err := bindNewNetNS(path); err != nil {
			return fmt.Errorf("make network namespace %q: %w", path, err)
		}
	}
	err = inNetNS(path, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetUp(lo), blockMetadata())
	})
	if err != nil {
		return fmt.Errorf("set up network namespace %q: %w", path, err)
	}
	return nil
}

// metadataServices are the addresses at which clouds tell a machine who it is
// and what it was started with, the key of its TLS server among it.
func metadataServices() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("169.254.169.254/32"), // most clouds
		netip.MustParsePrefix("fd00:ec2::254/128"),  // AWS
		netip.MustParsePrefix("fd20:ce::254/128"),   // GCP
		netip.MustParsePrefix("100.100.100.200/32"), // Alibaba
		netip.MustParsePrefix("168.63.129.16/32"),   // Azure's wire server
	}
}

// blockMetadata keeps workloads from the metadata services of the machine and,
// through the tunnel, of the worker node. No route is more specific.
func blockMetadata() error {
	for _, p := range metadataServices() {
		dst := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
		err := netlink.RouteReplace(&netlink.Route{Dst: dst, Type: unix.RTN_UNREACHABLE})
		if p.Addr().Is6() && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EACCES)) {
			continue // without IPv6 there is no way there
		}
		if err != nil {
			return fmt.Errorf("keep workloads from %v: %w", p.Addr(), err)
		}
	}
	return nil
}

// RemoveNetNS undoes MakeNetNS. The namespace lives on while processes are in
// it.
func RemoveNetNS(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount network namespace %q: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove network namespace: %w", err)
	}
	return nil
}

func isNamespace(path string) (bool, error) {
	var st unix.Statfs_t
	err := unix.Statfs(path, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil && st.Type == nsfsMagic, err
}

func bindNewNetNS(path string) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o444)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		return unix.Mount(threadNetNS, path, "", unix.MS_BIND, "")
	})
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// threadNetNS is the network namespace of the calling thread.
const threadNetNS = "/proc/thread-self/ns/net"

// inNetNS runs f with the thread in the network namespace at path.
func inNetNS(path string, f func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close() // read only; its error says nothing
	return onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// onThread runs f on a thread of its own, which may change its network
// namespace. The thread goes back to its namespace afterwards; one that cannot
// is never used again.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		// /proc/self means the first thread, and others look there meanwhile.
		// With it locked here, the next goroutine gets another one.
		if unix.Gettid() == os.Getpid() {
			done <- onThread(f)
			runtime.UnlockOSThread()
			return
		}
		home, err := os.Open(threadNetNS)
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer home.Close() // read only; its error says nothing
		err = f()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			done <- errors.Join(err, fmt.Errorf("return to network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

// ListenIn listens inside the network namespace at path, as net.Listen does;
// an empty path means the caller's own. The listener stays in that namespace
// wherever it is used.
func ListenIn(ctx context.Context, path, network, addr string) (l net.Listener, err error) {
	var lc net.ListenConfig
	if path == "" {
		return lc.Listen(ctx, network, addr)
	}
	err = inNetNS(path, func() (err error) {
		l, err = lc.Listen(ctx, network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s %q in %q: %w", network, addr, path, err)
	}
	return l, nil
}
