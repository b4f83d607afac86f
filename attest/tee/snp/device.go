// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

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

	"cocoon/attest/tee/tsm"
)

// devicePath is the guest driver's.
const devicePath = "/dev/sev-guest"

const (
	// getExtReport is SNP_GET_EXT_REPORT of linux/sev-guest.h:
	// _IOWR('S', 2, struct snp_guest_request_ioctl).
	getExtReport = 3<<30 | 32<<16 | 'S'<<8 | 2

	certsRoom  = 16 << 10 // SEV_FW_BLOB_MAX_SIZE: the driver refuses more
	firmwareOK = 0

	// What the hypervisor answers, in the upper half of exitinfo2.
	vmmInvalidLen = 1
	vmmBusy       = 2

	deviceTries = 10
)

// Device gives reports.
type Device interface {
	// Report returns a report about data and the host's table of certificates,
	// which is empty if it has none.
	Report(ctx context.Context, data [DataSize]byte) (report, certs []byte, err error)
}

// ErrUnsupported is returned where the kernel gives no SNP reports.
var ErrUnsupported = errors.New("the kernel gives no SNP reports")

// guestRequest is struct snp_guest_request_ioctl.
type guestRequest struct {
	version   uint8
	_         [7]byte
	request   uint64
	response  uint64
	exitinfo2 uint64
}

// extRequest is struct snp_ext_report_req.
type extRequest struct {
	data     [DataSize]byte
	vmpl     uint32
	_        [28]byte
	certs    uint64
	certsLen uint32
	_        [4]byte
}

// response is struct snp_report_resp with the firmware's answer in it.
type response struct {
	status uint32
	size   uint32
	_      [24]byte
	report [ReportSize]byte
	_      [4000 - 32 - ReportSize]byte
}

// driver is the guest driver's device.
type driver struct {
	path  string
	ioctl func(fd int, r *guestRequest) error
	wait  time.Duration // before a busy hypervisor is asked again
}

func newDriver() driver { return driver{path: devicePath, ioctl: ioctl, wait: 2 * time.Second} }

func ioctl(fd int, r *guestRequest) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), getExtReport, uintptr(unsafe.Pointer(r)))
	if errno != 0 {
		return errno
	}
	return nil
}

// Report implements Device.
func (d driver) Report(ctx context.Context, data [DataSize]byte) (_, _ []byte, err error) {
	f, err := os.OpenFile(d.path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// The driver wants whole pages for the table.
	certs, err := unix.Mmap(-1, 0, certsRoom, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, nil, fmt.Errorf("get memory for certificates: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(certs)) }()
	for try := 1; ; try++ {
		report, table, err := d.once(int(f.Fd()), data, certs)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EINTR) || try == deviceTries {
			return report, table, err
		}
		select {
		case <-ctx.Done():
			return nil, nil, errors.Join(err, ctx.Err())
		case <-time.After(d.wait):
		}
	}
}

func (d driver) once(fd int, data [DataSize]byte, certs []byte) (report, table []byte, err error) {
	clear(certs)
	req := extRequest{data: data, certs: uint64(uintptr(unsafe.Pointer(&certs[0]))), certsLen: uint32(len(certs))}
	var resp response
	var pin runtime.Pinner // the kernel gets their addresses as numbers
	pin.Pin(&req)
	pin.Pin(&resp)
	defer pin.Unpin()
	ask := guestRequest{version: 1, request: uint64(uintptr(unsafe.Pointer(&req))), response: uint64(uintptr(unsafe.Pointer(&resp)))}
	err = d.ioctl(fd, &ask)
	if vmm := uint32(ask.exitinfo2 >> 32); err != nil || vmm != 0 || uint32(ask.exitinfo2) != firmwareOK {
		return nil, nil, requestError(vmm, uint32(ask.exitinfo2), err)
	}
	switch {
	case resp.status != 0:
		return nil, nil, fmt.Errorf("the firmware refuses the report: status %#x", resp.status)
	case resp.size != ReportSize:
		return nil, nil, fmt.Errorf("%w: the firmware gave %d bytes, want %d", ErrReport, resp.size, ReportSize)
	}
	return append([]byte(nil), resp.report[:]...), append([]byte(nil), certs...), nil
}

func requestError(vmm, firmware uint32, err error) error {
	switch {
	case vmm == vmmBusy:
		return fmt.Errorf("the hypervisor is busy: %w", unix.EBUSY)
	case vmm == vmmInvalidLen:
		return fmt.Errorf("the hypervisor's table of certificates has more than %d bytes", certsRoom)
	case err == nil:
		return fmt.Errorf("SNP report refused: hypervisor %#x, firmware %#x", vmm, firmware)
	}
	return fmt.Errorf("SNP report refused: hypervisor %#x, firmware %#x: %w", vmm, firmware, err)
}

// configfs is the newer interface, which has no device.
type configfs struct{ reporter tsm.Reporter }

// Report implements Device.
func (c configfs) Report(ctx context.Context, data [DataSize]byte) (report, certs []byte, err error) {
	r, err := c.reporter.Get(ctx, "sev_guest", data[:])
	if errors.Is(err, tsm.ErrUnsupported) {
		return nil, nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return r.Out, r.Aux, err
}
