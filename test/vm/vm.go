// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package vm boots guest images in QEMU for tests and the demonstration, and
// watches their consoles. What a test asserts is a line on the console: the
// exit status of QEMU is the same for a panic and a power-off.
package vm

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"cocoon/mkimage/image"
	"cocoon/mkimage/profile"
	"cocoon/mkimage/qemu"
)

// PowerDown is what the kernel says when it switches the machine off. A guest
// that panicked does not say it.
const PowerDown = "reboot: Power down"

var (
	// ErrEnded means that the machine ended before the marker came.
	ErrEnded = errors.New("the machine ended")
	// ErrTimeout means that the marker did not come in time.
	ErrTimeout = errors.New("the marker did not come in time")
)

// Options change how an image is started. The zero value is fine.
type Options struct {
	// Cmdline replaces the image's, if it is not empty.
	Cmdline string
	// Append are words for the end of the image's command line.
	Append []string
	// MemoryMiB replaces the manifest's.
	MemoryMiB int
	CPUs      int
	// Accel is the accelerator; empty means emulation. Use qemu.Accel to ask for
	// the best one that works.
	Accel string
	// Firmware starts an image that boots itself. Its command line is in the image.
	Firmware string
	// Root replaces the disk with the root, in an image that has one.
	Root string
	// Disks become virtio block devices, in order.
	Disks []qemu.Disk
	// GuestPorts are forwarded from free ports of 127.0.0.1.
	GuestPorts []int
	Channels   []qemu.Channel
	// Extra are further arguments of QEMU.
	Extra []string
	// Console gets everything that the guest prints, as it comes.
	Console io.Writer
}

// Guest is a running guest.
type Guest struct {
	machine  *qemu.Machine
	console  *console
	cancel   context.CancelFunc
	forwards map[int]string
}

// Start checks the image in dir against its manifest and starts it. The guest
// ends with ctx; the caller has to call Close in any case.
func Start(ctx context.Context, dir string, o Options) (*Guest, error) {
	m, err := image.Open(dir)
	if err != nil {
		return nil, err
	}
	c := image.Machine(dir, m)
	if c.Firmware = o.Firmware; c.Firmware == "" {
		c.Cmdline = strings.Join(append([]string{cmp.Or(o.Cmdline, c.Cmdline)}, o.Append...), " ")
	} else {
		c.Disks = []qemu.Disk{{File: filepath.Join(dir, image.DiskFile(profile.Raw)), ReadOnly: true}}
	}
	c.CPUs, c.Accel, c.Channels, c.Extra = o.CPUs, o.Accel, o.Channels, o.Extra
	c.Disks = append(c.Disks, o.Disks...)
	if o.Root != "" {
		c.Disks[0].File = o.Root
	}
	if o.MemoryMiB > 0 {
		c.MemoryMiB = o.MemoryMiB
	}
	if c.Forwards, err = freePorts(ctx, o.GuestPorts); err != nil {
		return nil, err
	}
	g := &Guest{console: newConsole(o.Console), forwards: map[int]string{}}
	for _, f := range c.Forwards {
		g.forwards[f.GuestPort] = fmt.Sprintf("127.0.0.1:%d", f.HostPort)
	}
	ctx, g.cancel = context.WithCancel(ctx)
	if g.machine, err = qemu.Start(ctx, c, g.console); err != nil {
		g.cancel()
		return nil, err
	}
	return g, nil
}

// freePorts picks a port of the host for each of the guest. Another program may
// take one before QEMU does; QEMU then says so and ends.
func freePorts(ctx context.Context, guest []int) (fs []qemu.Forward, err error) {
	for _, p := range guest {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		// All stay open until the last is found, so that none comes twice.
		defer func() { err = errors.Join(err, l.Close()) }()
		fs = append(fs, qemu.Forward{HostPort: l.Addr().(*net.TCPAddr).Port, GuestPort: p})
	}
	return fs, nil
}

// Addr returns the address on the host that leads to a port of the guest, or ""
// if the port is not among GuestPorts. QEMU accepts connections before the
// guest listens.
func (g *Guest) Addr(guestPort int) string { return g.forwards[guestPort] }

// WaitFor waits until the console has shown text. The error wraps ErrTimeout,
// ErrEnded or that of ctx, and carries the end of the console.
func (g *Guest) WaitFor(ctx context.Context, text string, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, ErrTimeout)
	defer cancel()
	ended := g.machine.Done()
	for {
		seen, changed := g.console.contains(text)
		if seen {
			return nil
		}
		if ended == nil {
			return fmt.Errorf("wait for %q: %w\n%s", text, ErrEnded, g.console.tail())
		}
		select {
		case <-changed:
		case <-ended:
			// What it printed last has arrived by now; look once more.
			ended = nil
		case <-ctx.Done():
			return fmt.Errorf("wait for %q: %w\n%s", text, context.Cause(ctx), g.console.tail())
		}
	}
}

// Wait waits for the machine to end by itself.
func (g *Guest) Wait(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, ErrTimeout)
	defer cancel()
	select {
	case <-g.machine.Done():
		return g.machine.Wait()
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of the machine: %w\n%s", context.Cause(ctx), g.console.tail())
	}
}

// Console returns what the guest has printed so far.
func (g *Guest) Console() string { return g.console.String() }

// Close ends the machine, if it still runs, and waits for it.
func (g *Guest) Close() {
	g.cancel()
	g.machine.Kill()
}

// maxConsole bounds what is kept of the console.
const maxConsole = 16 << 20

// console collects output and tells who waits for it.
type console struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{}
	copy    io.Writer
}

func newConsole(w io.Writer) *console {
	if w == nil {
		w = io.Discard
	}
	return &console{changed: make(chan struct{}), copy: w}
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	if c.buf.Len()+len(p) <= maxConsole {
		c.buf.Write(p)
	}
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	return c.copy.Write(p)
}

func (c *console) contains(text string) (bool, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Contains(c.buf.Bytes(), []byte(text)), c.changed
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}

// tail returns the last lines, for errors.
func (c *console) tail() string {
	const size = 2000
	s := c.String()
	return s[max(0, len(s)-size):]
}
