// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bytes"
	"context"
	"os"
	"sync"
	"time"
)

// kvmDevice is there on many machines on which no guest boots.
const kvmDevice = "/dev/kvm"

// bootedMarker is what a kernel without any root says as the last thing of its
// start; a kernel that gets there works.
const bootedMarker = "Unable to mount root fs"

// probeTimeout is far above what a real KVM needs, about one second.
const probeTimeout = 6 * time.Second

// Accel returns KVM if the kernel image boots with it, else TCG. The device
// alone proves nothing, so a machine is started.
func Accel(ctx context.Context, kernel string) string {
	if f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0); err != nil || f.Close() != nil {
		return TCG
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	out := &marker{text: []byte(bootedMarker), seen: make(chan struct{})}
	m, err := Start(ctx, Config{
		Kernel: kernel, MemoryMiB: 256, Accel: KVM, Cmdline: "console=ttyS0 panic=-1",
	}, out)
	if err != nil {
		return TCG
	}
	defer m.Kill()
	select {
	case <-out.seen:
		return KVM
	case <-m.Done():
	}
	select {
	case <-out.seen: // It may have ended right after the line.
		return KVM
	default:
		return TCG
	}
}

// marker closes seen when text has passed.
type marker struct {
	text []byte
	seen chan struct{}

	once sync.Once
	rest []byte
}

func (m *marker) Write(p []byte) (int, error) {
	m.rest = append(m.rest, p...)
	if bytes.Contains(m.rest, m.text) {
		m.once.Do(func() { close(m.seen) })
	}
	if keep := len(m.text); len(m.rest) > keep {
		m.rest = m.rest[len(m.rest)-keep:]
	}
	return len(p), nil
}
