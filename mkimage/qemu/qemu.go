// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package qemu starts guests on the developer's machine. QEMU plays the host
// here, and the guest must not trust it.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Binary is the emulator.
const Binary = "/usr/bin/qemu-system-x86_64"

// Accelerators.
const (
	TCG = "tcg"
	KVM = "kvm"
)

// ErrConfig is wrapped by errors about a Config.
var ErrConfig = errors.New("wrong machine configuration")

// Config describes a machine. Kernel is required, or Firmware.
type Config struct {
	// Firmware is a file with the code of UEFI firmware. Without Kernel it starts
	// the first of the disks.
	Firmware string
	// Kernel and Initrd are files, Cmdline is the kernel's command line.
	Kernel, Initrd, Cmdline string
	MemoryMiB               int
	// CPUs is the number of processors; zero means one.
	CPUs int
	// Accel is TCG or KVM; empty means TCG.
	Accel string
	Disks []Disk
	// Forwards lead from 127.0.0.1 of the host to the guest. QEMU accepts a
	// connection before the guest listens: only an answer proves readiness.
	Forwards []Forward
	// Channels are virtio-serial ports.
	Channels []Channel
	// Extra are further arguments.
	Extra []string
}

// Disk is a raw disk image, seen by the guest as a virtio block device.
type Disk struct {
	File     string
	ReadOnly bool
}

// Forward is a forwarded TCP port.
type Forward struct{ HostPort, GuestPort int }

// Channel is a virtio-serial port with a unix socket on the host's side.
type Channel struct{ Name, Socket string }

// Args returns the command line of QEMU.
func (c Config) Args() ([]string, error) {
	if c.Kernel == "" && (c.Firmware == "" || len(c.Disks) == 0 || c.Initrd != "" || c.Cmdline != "") || c.MemoryMiB < 64 {
		return nil, fmt.Errorf("%w: kernel %q, or firmware %q with %d disks, no initrd and no command line; %d MiB", ErrConfig, c.Kernel, c.Firmware, len(c.Disks), c.MemoryMiB)
	}
	accel, err := c.accelArgs()
	if err != nil {
		return nil, err
	}
	args := append([]string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35",
		"-serial", "stdio", "-m", strconv.Itoa(c.MemoryMiB), "-smp", strconv.Itoa(max(c.CPUs, 1)),
		"-object", "rng-builtin,id=rng0", "-device", "virtio-rng-pci,rng=rng0",
	}, accel...)
	args = append(args, c.startArgs()...)
	for i, d := range c.Disks {
		opts := fmt.Sprintf("if=none,id=disk%d,format=raw,file=%s", i, escape(d.File))
		if d.ReadOnly {
			opts += ",readonly=on"
		}
		device := fmt.Sprintf("virtio-blk-pci,drive=disk%d", i)
		if i == 0 && c.Kernel == "" {
			device += ",bootindex=0"
		}
		args = append(args, "-drive", opts, "-device", device)
	}
	args = append(args, c.networkArgs()...)
	args = append(args, c.channelArgs()...)
	return append(args, c.Extra...), nil
}

// startArgs say what the machine starts.
func (c Config) startArgs() []string {
	var args []string
	if c.Firmware != "" {
		args = append(args, "-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+escape(c.Firmware))
	}
	if c.Kernel != "" {
		args = append(args, "-kernel", c.Kernel, "-append", c.Cmdline)
	}
	if c.Initrd != "" {
		args = append(args, "-initrd", c.Initrd)
	}
	return args
}

// accelArgs leaves out CMPXCHG16B under emulation, which corrupts the memory of
// kernels that use it in QEMU 7.2.
func (c Config) accelArgs() ([]string, error) {
	switch c.Accel {
	case "", TCG:
		return []string{"-accel", "tcg,thread=multi", "-cpu", "max,-cx16"}, nil
	case KVM:
		return []string{"-accel", "kvm", "-cpu", "host"}, nil
	}
	return nil, fmt.Errorf("%w: accelerator %q", ErrConfig, c.Accel)
}

func (c Config) networkArgs() []string {
	var b strings.Builder
	b.WriteString("user,id=net0")
	for _, f := range c.Forwards {
		fmt.Fprintf(&b, ",hostfwd=tcp:127.0.0.1:%d-:%d", f.HostPort, f.GuestPort)
	}
	return []string{"-netdev", b.String(), "-device", "virtio-net-pci,netdev=net0,romfile="}
}

func (c Config) channelArgs() []string {
	if len(c.Channels) == 0 {
		return nil
	}
	args := []string{"-device", "virtio-serial-pci"}
	for i, ch := range c.Channels {
		args = append(args,
			"-chardev", fmt.Sprintf("socket,id=chan%d,path=%s,server=on,wait=off", i, escape(ch.Socket)),
			"-device", fmt.Sprintf("virtserialport,chardev=chan%d,name=%s", i, escape(ch.Name)))
	}
	return args
}

// escape doubles commas, which separate options.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// Machine is a running QEMU.
type Machine struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start starts QEMU and copies the serial console to console. The machine is
// killed when ctx ends. QEMU's exit status says nothing about the guest: a
// panicked one ends with status 0 as well.
func Start(ctx context.Context, c Config, console io.Writer) (*Machine, error) {
	args, err := c.Args()
	if err != nil {
		return nil, err
	}
	var stderr tail
	cmd := exec.CommandContext(ctx, Binary, args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = console, &stderr, 2*time.Second
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the machine: %w", err)
	}
	m := &Machine{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		if err := cmd.Wait(); err != nil {
			m.err = fmt.Errorf("machine: %w: %s", err, stderr.String())
		}
	}()
	return m, nil
}

// Done is closed when the machine has ended.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Wait waits for the end of the machine and returns QEMU's error, if any.
func (m *Machine) Wait() error {
	<-m.done
	return m.err
}

// Pid returns the process id of QEMU.
func (m *Machine) Pid() int { return m.cmd.Process.Pid }

// Kill ends the machine at once and waits for it. It may be called again.
func (m *Machine) Kill() {
	// The only error is that the process has ended, which is what is wanted.
	_ = m.cmd.Process.Kill()
	<-m.done
}

// tail keeps the last of what is written to it.
type tail struct{ b []byte }

const tailSize = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > tailSize {
		t.b = t.b[len(t.b)-tailSize:]
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(t.b)) }
