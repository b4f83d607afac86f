// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tdx

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slow answers after a second.
type slow struct {
	asked *atomic.Int32
	err   error
}

func (s slow) Collateral(ctx context.Context, p Platform) (*Collateral, error) {
	s.asked.Add(1)
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return &Collateral{TCBInfo: []byte(p.FMSPC)}, s.err
}

func TestTheServiceIsAskedOnceForAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		c := NewCache(slow{asked: &asked}, nil)
		var all sync.WaitGroup
		for i := range 200 {
			all.Go(func() {
				p := Platform{FMSPC: fmt.Sprint(i % 2)}
				if got, err := c.Collateral(t.Context(), p); err != nil || string(got.TCBInfo) != p.FMSPC {
					t.Errorf("%v, %v", got, err)
				}
			})
		}
		all.Wait()
		if n := asked.Load(); n != 2 {
			t.Errorf("asked %d times for two platforms", n)
		}
		time.Sleep(cacheLife)
		if _, err := c.Collateral(t.Context(), Platform{FMSPC: "0"}); err != nil || asked.Load() != 3 {
			t.Errorf("later: asked %d times (%v)", asked.Load(), err)
		}
	})
}

func TestAFailedQuestionIsAskedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		broken := errors.New("broken")
		c := NewCache(slow{&asked, broken}, nil)
		for range 2 {
			if _, err := c.Collateral(t.Context(), Platform{}); !errors.Is(err, broken) {
				t.Error(err)
			}
		}
		if n := asked.Load(); n != 2 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestWhoGivesUpDoesNotFailOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		c := NewCache(slow{asked: &asked}, nil)
		hasty, cancel := context.WithCancel(t.Context())
		var both sync.WaitGroup
		both.Go(func() {
			if _, err := c.Collateral(hasty, Platform{}); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		both.Go(func() {
			if _, err := c.Collateral(t.Context(), Platform{}); err != nil {
				t.Error(err)
			}
		})
		short, end := context.WithTimeout(t.Context(), time.Millisecond)
		defer end()
		if _, err := c.Collateral(short, Platform{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		cancel()
		both.Wait()
	})
}

func TestTheCacheIsBounded(t *testing.T) {
	t.Parallel()
	c := NewCache(fixedAny{}, nil)
	for i := range 3 * maxCached {
		if _, err := c.Collateral(t.Context(), Platform{FMSPC: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
		if len(c.entries) > maxCached {
			t.Fatalf("%d entries", len(c.entries))
		}
	}
}

type fixedAny struct{}

func (fixedAny) Collateral(context.Context, Platform) (*Collateral, error) { return &Collateral{}, nil }
