// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package se

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	uvDevice = "/dev/uv"

	// attest is UVIO_IOCTL_ATT: 'u' 1, both ways, 64 bytes.
	attest = 3<<30 | 64<<16 | 'u'<<8 | 1
	// executed is UVC_RC_EXECUTED, the one code of success.
	executed = 1

	busyTries = 10
	busyWait  = 100 * time.Millisecond
)

// control is struct uvio_ioctl_cb.
type control struct {
	flags    uint32
	rc, rrc  uint16
	address  uint64
	length   uint32
	reserved [44]byte
}

// arguments is struct uvio_attest.
type arguments struct {
	block, measurement, additional uint64
	userData                       [256]byte
	cuid                           [CUIDSize]byte
	blockLen                       uint32
	measurementLen                 uint32
	additionalLen                  uint32
	userDataLen                    uint16
	_                              uint16
}

// driver is the kernel's.
type driver struct{ path string }

// Attest implements Device.
func (d driver) Attest(ctx context.Context, c *Call) (err error) {
	f, err := os.OpenFile(d.path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if err != nil {
		return fmt.Errorf("open the ultravisor device: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for try := 1; ; try++ {
		errno, rc := ask(f, c)
		if errno == 0 {
			return rc
		}
		if errno != unix.EBUSY && errno != unix.EINTR && errno != unix.EAGAIN || try == busyTries {
			return fmt.Errorf("ask the ultravisor for a measurement: %w", errno)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("ask the ultravisor for a measurement: %w", context.Cause(ctx))
		case <-time.After(busyWait):
		}
	}
}

// ask does the call, and says what the ultravisor makes of it.
func ask(f *os.File, c *Call) (unix.Errno, error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	address := func(b []byte) uint64 {
		p := unsafe.SliceData(b)
		if p != nil {
			pin.Pin(p)
		}
		return uint64(uintptr(unsafe.Pointer(p)))
	}
	args := arguments{
		block: address(c.Block), measurement: address(c.Measurement), additional: address(c.Additional),
		blockLen: uint32(len(c.Block)), measurementLen: uint32(len(c.Measurement)), additionalLen: uint32(len(c.Additional)),
		userDataLen: uint16(len(c.UserData)),
	}
	copy(args.userData[:], c.UserData)
	pin.Pin(&args)
	cb := control{address: uint64(uintptr(unsafe.Pointer(&args))), length: uint32(unsafe.Sizeof(args))}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), attest, uintptr(unsafe.Pointer(&cb)))
	runtime.KeepAlive(f)
	c.CUID = args.cuid
	return errno, refusal(cb)
}

// refusal is what the ultravisor answered, if that is no success.
func refusal(cb control) error {
	if cb.rc == executed {
		return nil
	}
	return fmt.Errorf("the ultravisor refuses the request for attestation: rc %#04x, rrc %#04x", cb.rc, cb.rrc)
}
