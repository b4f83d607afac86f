// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// runDir holds what PID 1 leaves for the guest role.
const runDir = "/run/cocoon"

// ErrNoInterface is returned when the command line asks for a network and there
// is no interface for it.
var ErrNoInterface = errors.New("no network interface of a device that is known")

func linkUp(s *State, link string) error {
	if err := s.Deps.Net.Up(link); err != nil {
		return fmt.Errorf("set interface %q up: %w", link, err)
	}
	return nil
}

// configureNetwork applies the parameter "ip" to the interface it names, else
// to the first one: of the virtio driver if the address is given, of any if a
// server is asked. Pod networks are none of its business.
func configureNetwork(ctx context.Context, s *State) error {
	c := *s.network
	link, err := chooseLink(c, s.Deps.Net)
	if err != nil {
		return err
	}
	if err := linkUp(s, link); err != nil {
		return err
	}
	if c.DHCP {
		lease, err := s.Deps.Net.DHCP(ctx, link)
		if err != nil {
			return fmt.Errorf("configure %q: %w", link, err)
		}
		c.Address, c.Gateway, c.DNS = lease.Address, lease.Gateway, lease.DNS
	}
	if err := s.Deps.Net.Address(link, c.Address); err != nil {
		return fmt.Errorf("set address %s on %q: %w", c.Address, link, err)
	}
	if c.Gateway.IsValid() {
		if err := s.Deps.Net.Route(link, c.Gateway); err != nil {
			return fmt.Errorf("set default route %s on %q: %w", c.Gateway, link, err)
		}
	}
	return writeResolv(s.Deps.FS, c.DNS)
}

func chooseLink(c NetConfig, l Links) (string, error) {
	if c.Device != "" {
		return c.Device, nil
	}
	list := l.Virtio
	if c.DHCP {
		list = l.Physical
	}
	links, err := list()
	if err != nil {
		return "", fmt.Errorf("list network interfaces: %w", err)
	}
	if len(links) == 0 {
		return "", ErrNoInterface
	}
	return links[0], nil
}

func writeResolv(fs Files, servers []netip.Addr) error {
	if err := makeDir(fs, runDir); err != nil {
		return err
	}
	var b strings.Builder
	for _, a := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	if err := fs.WriteFile(ResolvPath, []byte(b.String())); err != nil {
		return fmt.Errorf("write %q: %w", ResolvPath, err)
	}
	return nil
}
