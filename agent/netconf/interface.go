// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package netconf

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cocoon/agent/device"
	"cocoon/internal/wire/typespb"
)

// UpdateInterface gives an interface its name, addresses, MTU and flags and
// brings it up. It is found by its device, its hardware address or, failing
// these, its name. Addresses that it has already stay. When a step fails, what
// was done before it is undone; routes and IPv6 addresses that the kernel
// dropped with the interface going down do not come back.
//
// That no interface fits is ErrNoLink, that the device does not appear is
// ErrNoDevice, and that the request is not sound ErrInvalid.
func (n *Network) UpdateInterface(ctx context.Context, i *typespb.Interface) error {
	w, err := parseInterface(i)
	if err != nil {
		return fmt.Errorf("update interface: %w", err)
	}
	found := ""
	if w.device != "" {
		if found, err = n.waitDevice(ctx, w.device); err != nil {
			return fmt.Errorf("update interface %q: %w", w.name, err)
		}
	}
	err = n.withHandle(ctx, func(h *netlink.Handle) error {
		u := &update{h: h, wanted: w, found: found, log: n.cfg.Log}
		if err := u.run(ctx); err != nil {
			return errors.Join(err, u.rollBack())
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("update interface %q: %w", w.name, err)
	}
	return nil
}

// waitDevice waits for the interface of a device, for a bounded time.
func (n *Network) waitDevice(ctx context.Context, address string) (string, error) {
	limited, cancel := context.WithTimeout(ctx, n.cfg.HotplugTimeout)
	defer cancel()
	name, err := n.cfg.Devices.WaitInterface(limited, address)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		err = ctx.Err() // the caller went before the time was up
	case errors.Is(err, device.ErrNotFound):
		err = ErrNoDevice
	}
	if err != nil {
		return "", fmt.Errorf("wait for device %q: %w", address, err)
	}
	if err := checkName(name); err != nil {
		return "", fmt.Errorf("device %q: %w", address, err)
	}
	return name, nil
}

// linkByMAC finds an interface by hardware address. Of several, for a VLAN
// shares that of the interface below it, the device's own counts first and the
// one that has the wanted name second.
func linkByMAC(h *netlink.Handle, w wanted, found string) (netlink.Link, error) {
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var best netlink.Link
	for _, l := range links {
		a := l.Attrs()
		if !bytes.Equal(a.HardwareAddr, w.mac) {
			continue
		}
		if a.Name == found {
			return l, nil
		}
		if best == nil || a.Name == w.name {
			best = l
		}
	}
	if best == nil {
		return nil, fmt.Errorf("%w (hardware address %s)", ErrNoLink, w.mac)
	}
	return best, nil
}

// update is one UpdateInterface in progress.
type update struct {
	h      *netlink.Handle
	wanted wanted
	found  string // the name of the device's interface, or ""
	log    *slog.Logger
	link   netlink.Link
	other  netlink.Link // what had the wanted name, or nil
	undo   []func() error
}

func (u *update) onFailure(f func() error) { u.undo = append(u.undo, f) }

func (u *update) rollBack() error {
	var errs []error
	for i := len(u.undo) - 1; i >= 0; i-- {
		errs = append(errs, u.undo[i]())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("undo: %w", err)
	}
	return nil
}

func (u *update) run(ctx context.Context) error {
	for _, step := range []func() error{u.find, u.setDown, u.addAddresses, u.setName, u.setMTU, u.setARP, u.setUp} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// find sets the interface that is meant.
func (u *update) find() error {
	if u.found != "" && u.wanted.mac != nil {
		u.adoptMAC()
	}
	link, err := u.lookUp()
	if err != nil {
		return err
	}
	u.link = link
	return checkLink(link)
}

// checkLink refuses the loopback interface, whatever found it.
func checkLink(link netlink.Link) error {
	if link.Attrs().RawFlags&unix.IFF_LOOPBACK != 0 {
		return fmt.Errorf("the loopback interface is the guest's own: %w", ErrInvalid)
	}
	return nil
}

// adoptMAC gives a device's interface the wanted hardware address: a passed
// through virtual function comes with another one. An interface that does not
// take it is found by the look-up that follows, or not.
func (u *update) adoptMAC() {
	link, err := linkByName(u.h, u.found)
	if err == nil && !bytes.Equal(link.Attrs().HardwareAddr, u.wanted.mac) {
		err = u.setMAC(link)
	}
	if err != nil {
		u.log.Warn("an interface does not take its hardware address", "interface", u.found, "error", err)
	}
}

func (u *update) setMAC(link netlink.Link) error {
	if err := checkLink(link); err != nil {
		return err
	}
	if err := u.h.LinkSetHardwareAddr(link, u.wanted.mac); err != nil {
		return fmt.Errorf("set hardware address: %w", err)
	}
	u.onFailure(func() error { return u.h.LinkSetHardwareAddr(link, link.Attrs().HardwareAddr) })
	return nil
}

// lookUp returns the interface by its hardware address, which a named one gets
// if no other has it; without a hardware address, by device or name.
func (u *update) lookUp() (netlink.Link, error) {
	w := u.wanted
	if w.mac == nil {
		return linkByName(u.h, cmp.Or(u.found, w.name))
	}
	link, err := linkByMAC(u.h, w, u.found)
	if !errors.Is(err, ErrNoLink) {
		return link, err
	}
	named, nameErr := linkByName(u.h, w.name)
	if errors.Is(nameErr, ErrNoLink) {
		return nil, err // the hardware address is what identifies an interface
	}
	if nameErr != nil {
		return nil, nameErr
	}
	if err := u.setMAC(named); err != nil {
		return nil, err
	}
	return linkByMAC(u.h, w, u.found)
}

func (u *update) setDown() error {
	if u.link.Attrs().RawFlags&unix.IFF_UP == 0 {
		return nil
	}
	u.onFailure(func() error { return u.h.LinkSetUp(u.link) })
	if err := u.h.LinkSetDown(u.link); err != nil {
		return fmt.Errorf("set down: %w", err)
	}
	return nil
}

// addAddresses adds what the interface does not have. IPv6 addresses are left
// out where the guest has IPv6 switched off.
func (u *update) addAddresses() error {
	if len(u.wanted.addresses) == 0 {
		return nil
	}
	list, err := u.h.AddrList(u.link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	had := map[string]bool{}
	for _, a := range list {
		had[a.IPNet.String()] = true
	}
	six := hasIPv6("/proc/sys/net/ipv6/conf")
	for _, p := range u.wanted.addresses {
		if p.Addr().Is6() && !six {
			continue
		}
		if err := u.addAddress(p, had[ipNet(p).String()]); err != nil {
			return err
		}
	}
	return nil
}

func (u *update) addAddress(p netip.Prefix, had bool) error {
	if !had {
		u.onFailure(func() error {
			err := u.h.AddrDel(u.link, &netlink.Addr{IPNet: ipNet(p)})
			if errors.Is(err, unix.EADDRNOTAVAIL) {
				return nil // it was never added, or went with the interface
			}
			return err
		})
	}
	if err := u.h.AddrReplace(u.link, &netlink.Addr{IPNet: ipNet(p)}); err != nil {
		return fmt.Errorf("add address %s: %w", p, err)
	}
	return nil
}

// hasIPv6 reports whether IPv6 is on for all interfaces or for new ones. The
// kernel answers for the network namespace of the calling thread.
func hasIPv6(conf string) bool {
	for _, scope := range []string{"all", "default"} {
		b, err := os.ReadFile(conf + "/" + scope + "/disable_ipv6")
		if err == nil && string(bytes.TrimSpace(b)) == "0" {
			return true
		}
	}
	return false
}

func (u *update) setMTU() error {
	old := u.link.Attrs().MTU
	if u.wanted.mtu == 0 || u.wanted.mtu == old {
		return nil
	}
	u.onFailure(func() error { return u.h.LinkSetMTU(u.link, old) })
	if err := u.h.LinkSetMTU(u.link, u.wanted.mtu); err != nil {
		return fmt.Errorf("set MTU %d: %w", u.wanted.mtu, err)
	}
	return nil
}

func (u *update) setARP() error {
	was := u.link.Attrs().RawFlags&unix.IFF_NOARP != 0
	if was == u.wanted.noARP {
		return nil
	}
	set, reset := u.h.LinkSetARPOn, u.h.LinkSetARPOff
	if u.wanted.noARP {
		set, reset = reset, set
	}
	u.onFailure(func() error { return reset(u.link) })
	if err := set(u.link); err != nil {
		return fmt.Errorf("set ARP: %w", err)
	}
	return nil
}

// setUp brings the interface up, and the one that gave its name away.
func (u *update) setUp() error {
	u.onFailure(func() error { return u.h.LinkSetDown(u.link) })
	if err := u.h.LinkSetUp(u.link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	if u.other == nil {
		return nil
	}
	if err := u.h.LinkSetUp(u.other); err != nil {
		return fmt.Errorf("set %q up: %w", u.other.Attrs().Name, err)
	}
	return nil
}
