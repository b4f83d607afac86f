// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"time"
)

var (
	// ErrInvalid is returned for an address that is none.
	ErrInvalid = errors.New("invalid device address")

	// ErrNotFound is returned when a device does not appear in time.
	ErrNotFound = errors.New("device not found")

	// ErrUnsuitable is returned when what is at an address cannot be used: two
	// disks where there should be one, a node of the wrong kind.
	ErrUnsuitable = errors.New("unsuitable device")
)

// DefaultTimeout is how long shims expect an agent to wait for a device.
const DefaultTimeout = 3 * time.Second

// Config says where a Finder looks.
type Config struct {
	// Sys is where sysfs is mounted; "" means /sys.
	Sys string
	// Dev is the directory of device nodes; "" means /dev.
	Dev string
	// Timeout bounds the wait for one device; 0 means DefaultTimeout.
	Timeout time.Duration
	// Watch announces changes of the guest's devices; nil listens to the
	// kernel. Without announcements a device is found a little later.
	Watch func() (Watcher, error)
}

// Watcher announces that some device has come or gone.
type Watcher interface {
	// Changed gets a value after a change. Changes close to each other may
	// share one.
	Changed() <-chan struct{}
	// Close ends the announcements.
	Close() error
}

// Finder finds devices. It is safe for concurrent use.
type Finder struct{ cfg Config }

// New returns a Finder. It does not touch the system.
func New(c Config) *Finder {
	if c.Sys == "" {
		c.Sys = "/sys"
	}
	if c.Dev == "" {
		c.Dev = "/dev"
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Watch == nil {
		c.Watch = watchKernel
	}
	return &Finder{cfg: c}
}

// Timeout returns how long one device is waited for.
func (f *Finder) Timeout() time.Duration { return f.cfg.Timeout }
