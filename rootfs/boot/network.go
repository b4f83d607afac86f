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
var ErrNoInterface = errors.New("no network interface with the virtio driver")

func linkUp(s *State, link string) error {
	if err := s.Deps.Net.Up(link); err != nil {
		return fmt.Errorf("set interface %q up: %w", link, err)
	}
	return nil
}

// configureNetwork applies the parameter "ip" to the interface it names, else
// to the first virtio one. Pod networks are none of its business.
func configureNetwork(_ context.Context, s *State) error {
	c := s.network
	link := c.Device
	if link == "" {
		links, err := s.Deps.Net.Virtio()
		if err != nil {
			return fmt.Errorf("list network interfaces: %w", err)
		}
		if len(links) == 0 {
			return ErrNoInterface
		}
		link = links[0]
	}
	if err := linkUp(s, link); err != nil {
		return err
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
