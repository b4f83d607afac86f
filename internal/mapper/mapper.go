// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package mapper makes devices of the kernel's device mapper, by ioctl(2) on
// its control file and without any program.
//
// Trust boundary. Names and tables come from other packages of the guest, which
// have checked what the host sent. The control file is the kernel's.
package mapper

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Control is the file by which the kernel is asked.
const Control = "/dev/mapper/control"

// Sizes and numbers of include/uapi/linux/dm-ioctl.h.
const (
	headerSize = 312
	targetSize = 40
	nameOffset = 48
	nameSize   = 128
	typeSize   = 16

	cmdCreate  = 3
	cmdRemove  = 4
	cmdSuspend = 6
	cmdLoad    = 9

	flagReadOnly = 1 << 0
	flagSecure   = 1 << 15 // the kernel wipes what it was sent
	flagDeferred = 1 << 17

	ioctlBase = 0xc0000000 | headerSize<<16 | 0xfd<<8
)

const (
	maxParams = 4096
	nodeWait  = 5 * time.Second
	nodeLook  = 10 * time.Millisecond
)

// ErrInvalid is returned for a name or a table that the kernel has no room for.
var ErrInvalid = errors.New("invalid mapped device")

// Target is what a device consists of.
type Target struct {
	Type    string // "verity"
	Sectors uint64 // its size, in units of 512 bytes
	Params  []byte // text; the caller wipes it if it holds a key
}

// Mapper makes and removes devices. The zero value asks the kernel.
type Mapper struct {
	// Ask carries out one request; buf is the request and gets the answer. Nil
	// means the kernel.
	Ask func(request uint, buf []byte) error
	// Dev is the directory of device nodes; "" means /dev.
	Dev string
}

// ReadOnly makes a read-only device of one target and returns its node. When a
// step fails nothing is left of it.
func (m Mapper) ReadOnly(ctx context.Context, name string, t Target) (string, error) {
	return m.create(ctx, name, t, flagReadOnly)
}

// ReadWrite is ReadOnly for a device that can be written. Its table may hold a
// key: kernel and agent wipe what was sent.
func (m Mapper) ReadWrite(ctx context.Context, name string, t Target) (string, error) {
	return m.create(ctx, name, t, flagSecure)
}

func (m Mapper) create(ctx context.Context, name string, t Target, flags uint32) (string, error) {
	if err := check(name, t); err != nil {
		return "", err
	}
	buf := header(name, 0, headerSize)
	if err := m.ask(cmdCreate, buf); err != nil {
		return "", fmt.Errorf("create mapped device %q: %w", name, err)
	}
	node, err := m.start(ctx, name, t, flags)
	if err != nil {
		return "", errors.Join(err, m.Remove(name))
	}
	return node, nil
}

// start loads the table, lets the device work and waits for its node.
func (m Mapper) start(ctx context.Context, name string, t Target, flags uint32) (string, error) {
	request := table(name, t, flags)
	err := m.ask(cmdLoad, request)
	clear(request)
	if err != nil {
		return "", fmt.Errorf("load the table of mapped device %q: %w", name, err)
	}
	buf := header(name, 0, headerSize)
	if err := m.ask(cmdSuspend, buf); err != nil { // without the flag to suspend it resumes
		return "", fmt.Errorf("resume mapped device %q: %w", name, err)
	}
	number := binary.NativeEndian.Uint64(buf[40:48])
	return m.node(ctx, name, unix.Minor(number))
}

// node waits until the device's node is there.
func (m Mapper) node(ctx context.Context, name string, minor uint32) (string, error) {
	dev := m.Dev
	if dev == "" {
		dev = "/dev"
	}
	path := fmt.Sprintf("%s/dm-%d", dev, minor)
	ctx, cancel := context.WithTimeout(ctx, nodeWait)
	defer cancel()
	tick := time.NewTicker(nodeLook)
	defer tick.Stop()
	for {
		_, err := os.Stat(path)
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("look for mapped device %q: %w", name, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", fmt.Errorf("wait for mapped device %q at %q: %w", name, path, context.Cause(ctx))
		}
	}
}

// Remove removes a device, or when it is still in use has the kernel remove it
// with its last user. One that is not there is not an error.
func (m Mapper) Remove(name string) error {
	err := m.ask(cmdRemove, header(name, flagDeferred, headerSize))
	if err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("remove mapped device %q: %w", name, err)
	}
	return nil
}

func (m Mapper) ask(command uint, buf []byte) error {
	request := ioctlBase | command
	if m.Ask != nil {
		return m.Ask(request, buf)
	}
	f, err := os.OpenFile(Control, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open the device mapper: %w", err)
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(unsafe.Pointer(&buf[0])))
	if err := f.Close(); err != nil {
		return err
	}
	if errno != 0 {
		return errno
	}
	return nil
}

func check(name string, t Target) error {
	bad := strings.ContainsAny(name, "/\x00 ") || name == "" || name == "." || name == ".."
	switch {
	case bad || len(name) >= nameSize:
		return fmt.Errorf("name %.40q: %w", name, ErrInvalid)
	case t.Type == "" || len(t.Type) >= typeSize:
		return fmt.Errorf("type %.40q: %w", t.Type, ErrInvalid)
	case t.Sectors == 0 || len(t.Params) > maxParams || bytes.ContainsAny(t.Params, "\x00\n"):
		return fmt.Errorf("table of %d sectors and %d bytes: %w", t.Sectors, len(t.Params), ErrInvalid)
	}
	return nil
}

// header is a struct dm_ioctl with room for size bytes in all.
func header(name string, flags uint32, size int) []byte {
	b := make([]byte, size)
	order := binary.NativeEndian
	order.PutUint32(b[0:], 4) // version 4.0.0 of the interface
	order.PutUint32(b[12:], uint32(size))
	order.PutUint32(b[16:], headerSize) // where data begin
	order.PutUint32(b[28:], flags)
	copy(b[nameOffset:nameOffset+nameSize-1], name)
	return b
}

// table is a request with a struct dm_target_spec and its parameters.
func table(name string, t Target, flags uint32) []byte {
	size := (headerSize + targetSize + len(t.Params) + 1 + 7) &^ 7
	b := header(name, flags, size)
	order := binary.NativeEndian
	order.PutUint32(b[20:], 1) // targets
	spec := b[headerSize:]
	order.PutUint64(spec[8:], t.Sectors)
	order.PutUint32(spec[20:], uint32(size-headerSize)) // to the next target
	copy(spec[24:24+typeSize-1], t.Type)
	copy(spec[targetSize:], t.Params)
	return b
}
