// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/internal/stage"
)

func quietRetrier(f float64) retrier {
	r := newRetrier(slog.New(slog.DiscardHandler))
	r.float = func() float64 { return f }
	return r
}

func TestDelaysDoubleUpToALimitAndVaryByHalf(t *testing.T) {
	t.Parallel()
	low, high := quietRetrier(0), quietRetrier(1)
	want := firstDelay
	for n := 1; n < maxAttempts; n++ {
		if low.delay(n) != want/2 || high.delay(n) != want {
			t.Errorf("delay %d is %v to %v, want %v to %v", n, low.delay(n), high.delay(n), want/2, want)
		}
		want = min(2*want, maxDelay)
	}
}

func TestATransientFailureIsRepeatedWithPauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var at []time.Duration
		err := quietRetrier(1).do(t.Context(), "x", func(context.Context) error {
			at = append(at, time.Since(start))
			if len(at) < 4 {
				return &Problem{Status: 503}
			}
			return nil
		})
		want := []time.Duration{0, firstDelay, 3 * firstDelay, 7 * firstDelay}
		if err != nil || len(at) != len(want) {
			t.Fatalf("attempts at %v, %v", at, err)
		}
		for i := range want {
			if at[i] != want[i] {
				t.Errorf("attempt %d at %v, want %v", i+1, at[i], want[i])
			}
		}
	})
}

func TestADecisionOfTheBrokerIsNotRepeated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, err := range []error{
			&Problem{Status: 400}, &Problem{Status: 401}, &Problem{Status: 403}, &Problem{Status: 404},
			errors.New("x"), stage.Errorf(stage.TLS, "certificate"),
		} {
			n := 0
			got := quietRetrier(1).do(t.Context(), "x", func(context.Context) error { n++; return err })
			if n != 1 || !errors.Is(got, err) {
				t.Errorf("%v: %d attempts, error %v", err, n, got)
			}
		}
	})
}

func TestRetriesEndWithAttemptsDeadlineOrContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cause := &unreachable{errors.New("refused")}
		run := func(ctx context.Context) (int, error) {
			n := 0
			return n, quietRetrier(1).do(ctx, "x", func(context.Context) error { n++; return cause })
		}
		for name, limit := range map[string]time.Duration{"attempts": time.Hour, "deadline": time.Second} {
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			_, err := run(ctx)
			cancel()
			if !errors.Is(err, cause) || !strings.Contains(err.Error(), "gave up") || time.Since(start) > limit {
				t.Errorf("%s: error %v after %v", name, err, time.Since(start))
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		start := time.Now()
		if _, err := run(ctx); !errors.Is(err, cause) || time.Since(start) != 10*time.Millisecond {
			t.Errorf("cancelled: error %v after %v", err, time.Since(start))
		}
	})
}
