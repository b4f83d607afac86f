// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// lookEvery is how often a device that is on its way is looked for whatever
// the kernel announces.
const lookEvery = 50 * time.Millisecond

// wait calls look until it finds something, fails, or the time is up. look
// returns "" for what is not there yet. what names the device in the error.
func (f *Finder) wait(ctx context.Context, what string, look func() (string, error)) (string, error) {
	if found, err := look(); err != nil || found != "" {
		return found, err
	}
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Timeout)
	defer cancel()
	changed, done := f.watch()
	found, err := lookAgain(ctx, changed, look)
	if errors.Is(err, errTimeUp) {
		err = fmt.Errorf("%s: %w", what, ErrNotFound)
		if cause := context.Cause(ctx); !errors.Is(cause, context.DeadlineExceeded) {
			err = fmt.Errorf("%w: %w", err, cause)
		}
	}
	return found, errors.Join(err, done())
}

var errTimeUp = errors.New("the time is up")

func lookAgain(ctx context.Context, changed <-chan struct{}, look func() (string, error)) (string, error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		// Once more after the watch began: what came in between was not announced.
		if found, err := look(); err != nil || found != "" {
			return found, err
		}
		select {
		case <-tick.C:
		case <-changed:
		case <-ctx.Done():
			return "", errTimeUp
		}
	}
}

// watch returns announcements and how to end them. A kernel that lets nobody
// listen costs only time: the ticker finds the device as well.
func (f *Finder) watch() (<-chan struct{}, func() error) {
	w, err := f.cfg.Watch()
	if err != nil {
		return nil, func() error { return nil }
	}
	return w.Changed(), w.Close
}
