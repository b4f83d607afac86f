// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrLocked is returned when another process serves the same folder.
var ErrLocked = errors.New("in use by another process")

// Lock takes the lock file p for this process. The kernel releases it when the
// returned function is called or the process ends in any way.
func Lock(p string) (release func() error, err error) {
	f, err := os.OpenFile(p, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errors.Join(fmt.Errorf("%q: %w", p, ErrLocked), f.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %q: %w", p, err), f.Close())
	}
	return f.Close, nil
}
