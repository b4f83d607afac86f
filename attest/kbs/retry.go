// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"
)

const (
	maxAttempts = 8
	firstDelay  = 250 * time.Millisecond
	maxDelay    = 8 * time.Second
)

// retrier repeats what failed for a reason that may pass.
type retrier struct {
	log   *slog.Logger
	first time.Duration  // delay after the first attempt
	float func() float64 // in [0,1)
}

func newRetrier(log *slog.Logger) retrier {
	return retrier{log: log, first: firstDelay, float: rand.Float64}
}

// do runs f until it succeeds, fails for good, or ctx ends. A failure that
// outlives all attempts is the one returned.
func (r retrier) do(ctx context.Context, what string, f func(context.Context) error) error {
	var last error
	for n := 1; ; n++ {
		err := f(ctx)
		if last != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			// The attempt was cut short; the one before knows the cause.
			return fmt.Errorf("%w (gave up after %d attempts: %w)", last, n, err)
		}
		if err == nil || !transient(err) {
			return err
		}
		last = err
		if n == maxAttempts {
			return fmt.Errorf("%w (gave up after %d attempts)", err, n)
		}
		delay := r.delay(n)
		if end, ok := ctx.Deadline(); ok && time.Until(end) <= delay || !wait(ctx, delay) {
			return fmt.Errorf("%w (gave up after %d attempts, no time left)", err, n)
		}
		r.log.Warn("key broker did not serve, trying again", "what", what, "attempt", n, "error", err)
	}
}

// delay doubles with each attempt; half of it is random, so that guests which
// lost the broker together do not come back together.
func (r retrier) delay(attempt int) time.Duration {
	d := min(r.first<<(attempt-1), maxDelay)
	return d/2 + time.Duration(r.float()*float64(d/2))
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// transient says that the network or an overloaded broker failed, not that the
// broker decided something.
func transient(err error) bool {
	if p, ok := problemOf(err); ok {
		return p.Status >= 500 || p.Status == http.StatusTooManyRequests
	}
	_, ok := errors.AsType[*unreachable](err)
	return ok
}
