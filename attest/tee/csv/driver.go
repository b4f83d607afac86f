// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package csv

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
	guestDevice = "/dev/csv-guest"

	// getReport is CSV_CMD_GET_REPORT of drivers/virt/coco/csv-guest: 'D' 1, both
	// ways, 16 bytes.
	getReport = 3<<30 | 16<<16 | 'D'<<8 | 1

	busyTries = 10
	busyWait  = 100 * time.Millisecond
)

// driver is the kernel's.
type driver struct{ path string }

// request is struct csv_report_req.
type request struct {
	address uint64
	length  uint32
	_       uint32
}

// Report implements Device.
func (d driver) Report(ctx context.Context, page *[PageSize]byte) (err error) {
	f, err := os.OpenFile(d.path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if err != nil {
		return fmt.Errorf("open the CSV guest device: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for try := 1; ; try++ {
		asked := *page // the kernel may have written some of it
		errno := ask(f, &asked)
		if errno == 0 {
			*page = asked
			return nil
		}
		if errno != unix.EBUSY && errno != unix.EINTR && errno != unix.EAGAIN || try == busyTries {
			return fmt.Errorf("ask for a CSV report: %w", errno)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("ask for a CSV report: %w", context.Cause(ctx))
		case <-time.After(busyWait):
		}
	}
}

func ask(f *os.File, page *[PageSize]byte) unix.Errno {
	r := request{address: uint64(uintptr(unsafe.Pointer(page))), length: PageSize}
	var pin runtime.Pinner
	pin.Pin(page)
	defer pin.Unpin()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), getReport, uintptr(unsafe.Pointer(&r)))
	runtime.KeepAlive(f)
	return errno
}
