// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tdx

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"cocoon/attest/eventlog"
)

const (
	devicePath      = "/dev/tdx_guest"
	measurementsDir = "/sys/devices/virtual/misc/tdx_guest/measurements"

	// getReport is TDX_CMD_GET_REPORT0 of linux/tdx-guest.h:
	// _IOWR('T', 1, struct tdx_report_req).
	getReport = 3<<30 | (DataSize+ReportSize)<<16 | 'T'<<8 | 1

	registerCount = 4
)

// ErrUnsupported is returned for what the guest's kernel cannot do.
var ErrUnsupported = errors.New("not supported by the kernel's TDX driver")

// reportRequest is struct tdx_report_req.
type reportRequest struct {
	data   [DataSize]byte
	report Report
}

// machine is the registers of this guest. Kernels from 6.16 on show them as
// files; older ones give reports only, which nobody can extend.
type machine struct {
	device, dir string
	ioctl       func(fd int, r *reportRequest) error
}

func newMachine() machine {
	return machine{device: devicePath, dir: measurementsDir, ioctl: ioctl}
}

func ioctl(fd int, r *reportRequest) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), getReport, uintptr(unsafe.Pointer(r)))
	runtime.KeepAlive(r)
	if errno != 0 {
		return errno
	}
	return nil
}

func (m machine) report(data [DataSize]byte) (_ *Report, err error) {
	f, err := os.OpenFile(m.device, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r := reportRequest{data: data}
	if err := m.ioctl(int(f.Fd()), &r); err != nil {
		return nil, fmt.Errorf("ask for a TDREPORT: %w", err)
	}
	return &r.report, nil
}

// configID returns MRCONFIGID.
func (m machine) configID() ([]byte, error) {
	b, err := m.file("mrconfigid")
	if !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	r, err := m.report([DataSize]byte{})
	if err != nil {
		return nil, err
	}
	return r.ConfigID(), nil
}

func (m machine) file(name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(m.dir, name))
	if err == nil && len(b) != 48 {
		err = fmt.Errorf("%q has %d bytes, want 48", name, len(b))
	}
	return b, err
}

func registerFile(i int) string { return fmt.Sprintf("rtmr%d:sha384", i) }

// Alg implements eventlog.Registers.
func (machine) Alg() eventlog.Alg { return eventlog.SHA384 }

// index returns the RTMR of a measurement register index.
func index(register uint32) (int, error) {
	if register < 1 || register > registerCount {
		return 0, fmt.Errorf("there is no measurement register %d on TDX", register)
	}
	return int(register) - 1, nil
}

// Read implements eventlog.Registers.
func (m machine) Read(_ context.Context, register uint32) ([]byte, error) {
	i, err := index(register)
	if err != nil {
		return nil, err
	}
	b, err := m.file(registerFile(i))
	if !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	r, err := m.report([DataSize]byte{})
	if err != nil {
		return nil, err
	}
	return r.RTMR(i), nil
}

// Extend implements eventlog.Registers.
func (m machine) Extend(_ context.Context, register uint32, digest []byte) error {
	i, err := index(register)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(m.dir, registerFile(i)), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("extend RTMR%d: %w", i, ErrUnsupported)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(digest)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("extend RTMR%d: %w", i, err)
	}
	return nil
}

// extendable tells whether the kernel takes extensions.
func (m machine) extendable() bool {
	_, err := os.Stat(filepath.Join(m.dir, registerFile(registerCount-1)))
	return err == nil
}
