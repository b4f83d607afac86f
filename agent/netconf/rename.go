// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package netconf

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tempSuffix marks an interface that waits for its new name.
const tempSuffix = "_temp"

// setName gives the interface the wanted name. An interface that has it
// already gets this one's name in exchange.
func (u *update) setName() error {
	old, name := u.link.Attrs().Name, u.wanted.name
	if old == name {
		return nil
	}
	other, err := linkByName(u.h, name)
	if errors.Is(err, ErrNoLink) {
		return u.rename(u.link, old, name)
	}
	if err != nil {
		return err
	}
	temp := tempName(name)
	if err := u.clear(other); err != nil {
		return err
	}
	if err := u.rename(other, name, temp); err != nil {
		return err
	}
	if err := u.rename(u.link, old, name); err != nil {
		return err
	}
	u.other = other
	return u.rename(other, temp, old)
}

// clear sets the interface down that has the wanted name, since one that is up
// cannot be renamed.
func (u *update) clear(other netlink.Link) error {
	if other.Attrs().RawFlags&unix.IFF_UP != 0 {
		u.onFailure(func() error { return u.h.LinkSetUp(other) })
	} else {
		u.onFailure(func() error { return u.h.LinkSetDown(other) })
	}
	if err := u.h.LinkSetDown(other); err != nil {
		return fmt.Errorf("set %q down: %w", other.Attrs().Name, err)
	}
	return nil
}

// rename changes a name, and back when a later step fails.
func (u *update) rename(l netlink.Link, from, to string) error {
	if err := u.h.LinkSetName(l, to); err != nil {
		return fmt.Errorf("rename %q to %q: %w", from, to, err)
	}
	u.onFailure(func() error { return u.h.LinkSetName(l, from) })
	return nil
}

// tempName is the name of an interface on its way to another name, cut to what
// the kernel takes.
func tempName(name string) string {
	return name[:min(len(name), maxName-len(tempSuffix))] + tempSuffix
}
