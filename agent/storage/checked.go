// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/internal/mapper"
)

const (
	// checkedWait is how long the kernel may take to let go of a device whose
	// last user has just gone.
	checkedWait = 5 * time.Second
	checkedLook = 20 * time.Millisecond
)

// checkedDevices are the devices of the kernel that check layers, by name.
// Containers whose roots have a layer in common share its device.
type checkedDevices struct {
	// turn holds one token; its owner may use the map, and ask the kernel for a
	// device or to remove one.
	turn chan struct{}
	all  map[string]*checkedDevice
}

type checkedDevice struct {
	table string
	node  string
	users int
}

func newCheckedDevices() checkedDevices {
	return checkedDevices{turn: make(chan struct{}, 1), all: make(map[string]*checkedDevice)}
}

func (c *checkedDevices) lock(ctx context.Context) error {
	select { // a release goes on after the end of its request if it can
	case c.turn <- struct{}{}:
		return nil
	default:
	}
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for other layers: %w", context.Cause(ctx))
	}
}

func (c *checkedDevices) unlock() { <-c.turn }

// use returns the node of the device with a name, and makes it for the first
// user. A device of that name with another table is refused: its user would get
// what somebody else has named.
func (c *checkedDevices) use(ctx context.Context, m Mapper, name string, t mapper.Target) (string, error) {
	if err := c.lock(ctx); err != nil {
		return "", err
	}
	defer c.unlock()
	table := fmt.Sprintf("%d %s %s", t.Sectors, t.Type, t.Params)
	if d := c.all[name]; d != nil {
		if d.table != table {
			return "", fmt.Errorf("layer %q is in use with other dm-verity parameters: %w", name, ErrInvalid)
		}
		d.users++
		return d.node, nil
	}
	node, err := makeChecked(ctx, m, name, t)
	if err != nil {
		return "", err
	}
	c.all[name] = &checkedDevice{table: table, node: node, users: 1}
	return node, nil
}

// makeChecked makes a device. One of that name is left over from a container
// that is gone, and stays until the kernel has taken its last mount away.
func makeChecked(ctx context.Context, m Mapper, name string, t mapper.Target) (string, error) {
	wait, cancel := context.WithTimeout(ctx, checkedWait)
	defer cancel()
	tick := time.NewTicker(checkedLook)
	defer tick.Stop()
	for {
		if err := m.Remove(name); err != nil {
			return "", err
		}
		node, err := m.ReadOnly(ctx, name, t)
		if !errors.Is(err, unix.EBUSY) {
			return node, err
		}
		select {
		case <-tick.C:
		case <-wait.Done():
			return "", err
		}
	}
}

// drop gives a use back, and removes the device after the last. It can be
// repeated after an error.
func (c *checkedDevices) drop(ctx context.Context, m Mapper, name string) error {
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	d := c.all[name]
	if d == nil {
		return nil
	}
	if d.users == 1 {
		if err := m.Remove(name); err != nil {
			return err
		}
		delete(c.all, name)
	}
	d.users--
	return nil
}
