// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package se

import (
	"bytes"
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

	// Codes of the ultravisor, of arch/s390/include/asm/uv.h and s390-tools
	// (rust/pv_core). One of them is success.
	codeExecuted  = 0x0001
	codeNoCommand = 0x0002
	codeVersion   = 0x0106
	codeFlags     = 0x010a
	codeAlgorithm = 0x010b
	codeNoHostKey = 0x010c

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

// answer is what the kernel says of a call that it handed on.
type answer struct {
	rc, rrc    uint16
	additional uint32 // size of the additional data
}

// driver is the kernel's. The call itself is apart, so that tests can answer it.
type driver struct {
	path string
	call func(*os.File, *Call) (answer, unix.Errno)
}

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
		a, errno := d.call(f, c)
		if errno == 0 {
			return a.check(c)
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

// attestCall does the call.
func attestCall(f *os.File, c *Call) (answer, unix.Errno) {
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
	return answer{rc: cb.rc, rrc: cb.rrc, additional: args.additionalLen}, errno
}

// check tells success from all else, and cuts the additional data to what there
// is of it.
func (a answer) check(c *Call) error {
	if a.rc != codeExecuted {
		return a.refusal()
	}
	if int64(a.additional) > int64(len(c.Additional)) {
		return fmt.Errorf("%w: %d bytes of additional data in room for %d", ErrAnswer, a.additional, len(c.Additional))
	}
	c.Additional = c.Additional[:a.additional]
	if bytes.Equal(c.Measurement, make([]byte, len(c.Measurement))) {
		return fmt.Errorf("%w: no measurement", ErrAnswer)
	}
	return nil
}

// refusal says in words what operators run into.
func (a answer) refusal() error {
	why := map[uint16]string{
		codeNoCommand: "it knows no attestation", codeVersion: "it knows no requests of this version", codeFlags: "it does not have what is asked for",
		codeAlgorithm: "it does not know the algorithm", codeNoHostKey: "it cannot open the request, which is likely for the host keys of other machines",
	}[a.rc]
	err := fmt.Errorf("%w: rc %#04x, rrc %#04x %s", ErrRefused, a.rc, a.rrc, why)
	if a.rc == codeNoCommand {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return err
}
