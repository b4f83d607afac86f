// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"

	"cocoon/internal/stage"
)

// Retry says how often and how fast a failed request is repeated. The zero
// value means the defaults.
type Retry struct {
	Attempts int           // requests that fail in a row, without a byte of progress; default 5
	Total    int           // requests per blob at most, however many of them make progress; default 50
	First    time.Duration // wait after the first failure, doubled each time; default 200 ms
	Longest  time.Duration // longest wait, also when the registry asks for more; default 10 s
}

func (r Retry) withDefaults() Retry {
	if r.Attempts == 0 {
		r.Attempts = 5
	}
	if r.Total == 0 {
		r.Total = 50
	}
	if r.First == 0 {
		r.First = 200 * time.Millisecond
	}
	if r.Longest == 0 {
		r.Longest = 10 * time.Second
	}
	return r
}

// run calls f until it succeeds, its error is final, or the attempts are used
// up. f returns how long the other side asks to wait.
func (r Retry) run(ctx context.Context, f func() (time.Duration, error)) error {
	for attempt := 1; ; attempt++ {
		after, err := f()
		if err == nil || attempt >= r.Attempts || !worthRetrying(ctx, err) {
			return err
		}
		if werr := r.wait(ctx, attempt, after); werr != nil {
			return errors.Join(err, werr)
		}
	}
}

// wait waits before the next attempt: longer each time, with jitter, so that
// many guests that failed together do not come back together.
func (r Retry) wait(ctx context.Context, attempt int, after time.Duration) error {
	d := min(r.First<<min(attempt-1, 16), r.Longest)
	d = d/2 + rand.N(d/2+1)
	d = min(max(d, after), r.Longest)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// worthRetrying tells errors that may pass from those that will not.
func worthRetrying(ctx context.Context, err error) bool {
	if ctx.Err() != nil || isTLS(err) || onlyPlain(err) {
		return false
	}
	switch stage.Of(err) {
	case stage.Digest, stage.Unauthorized, stage.NotFound:
		return false
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return false
	}
	if s := statusOf(err); s != 0 {
		return s == http.StatusTooManyRequests || s == http.StatusRequestTimeout || s >= 500
	}
	return !errors.Is(err, errProtocol)
}

// retryAfter reads the seconds form of the Retry-After header.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || n < 0 || n > 3600 {
		return 0
	}
	return time.Duration(n) * time.Second
}
