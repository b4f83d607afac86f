// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"
)

// Opener connects to a TPM.
type Opener func(context.Context) (io.ReadWriteCloser, error)

// Devices returns the names of the kernel's devices in the order in which they
// are tried. Those with the resource manager of the kernel come first: it keeps
// one user's objects from another's.
func Devices() []string {
	return []string{"/dev/tpmrm0", "/dev/tpm0", "/dev/tpmrm1", "/dev/tpm1", "/dev/tpmrm2", "/dev/tpm2"}
}

// Device opens the first of the devices that exists, or returns ErrUnsupported.
func Device(names ...string) Opener {
	return func(context.Context) (io.ReadWriteCloser, error) {
		for _, name := range names {
			// Blocking, as the driver answers no read that comes before the answer.
			fd, err := unix.Open(name, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("open %q: %w", name, err)
			}
			return os.NewFile(uintptr(fd), name), nil
		}
		return nil, fmt.Errorf("%w: none of %q is there", ErrUnsupported, names)
	}
}

const (
	responseHead = 10 // tag, size, code
	maxResponse  = 4096

	busyTries = 20
	busyWait  = 50 * time.Millisecond
)

// line is one connection to a TPM. It is a transport.TPM.
type line struct {
	ctx context.Context //nolint:containedctx // transport.TPM has no place for one
	rw  io.ReadWriter
}

// Send carries out a command, again as long as the TPM is busy.
func (l line) Send(command []byte) ([]byte, error) {
	for try := 1; ; try++ {
		if err := l.ctx.Err(); err != nil {
			return nil, fmt.Errorf("TPM command: %w", context.Cause(l.ctx))
		}
		b, err := l.exchange(command)
		if err != nil {
			return nil, err
		}
		if !busy(tpm2.TPMRC(binary.BigEndian.Uint32(b[6:]))) || try == busyTries {
			return b, nil
		}
		select {
		case <-l.ctx.Done():
		case <-time.After(busyWait):
		}
	}
}

func busy(code tpm2.TPMRC) bool {
	return code == tpm2.TPMRCRetry || code == tpm2.TPMRCYielded || code == tpm2.TPMRCNVRate || code == tpm2.TPMRCTesting
}

func (l line) exchange(command []byte) ([]byte, error) {
	if _, err := l.rw.Write(command); err != nil {
		return nil, fmt.Errorf("write to the TPM: %w", err)
	}
	b := make([]byte, maxResponse)
	n, err := io.ReadAtLeast(l.rw, b, responseHead)
	if err != nil {
		return nil, fmt.Errorf("read from the TPM: %w", err)
	}
	size := int64(binary.BigEndian.Uint32(b[2:]))
	if size < responseHead || size > maxResponse || int64(n) > size {
		return nil, fmt.Errorf("read from the TPM: %d bytes, of which it says that they are %d", n, size)
	}
	if _, err := io.ReadFull(l.rw, b[n:size]); err != nil {
		return nil, fmt.Errorf("read from the TPM: %w", err)
	}
	return b[:size], nil
}
