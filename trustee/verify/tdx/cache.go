// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tdx

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// cacheLife is how long collateral is kept. Intel's is good for a month, and
	// what it says of its own age is judged each time.
	cacheLife = time.Hour
	maxCached = 256
	// askTimeout bounds a question that many may wait for.
	askTimeout = time.Minute
)

// Cache is a Source that keeps what another has given, and asks once for all who
// need the same. It is safe for concurrent use.
type Cache struct {
	source Source
	now    func() time.Time

	mu      sync.Mutex
	entries map[Platform]*cached
}

// cached is collateral, or a question under way.
type cached struct {
	done chan struct{} // closed when the answer is there
	at   time.Time
	c    *Collateral
	err  error
}

// NewCache returns a cache of a source. now tells the time; nil means time.Now.
func NewCache(source Source, now func() time.Time) *Cache {
	if now == nil {
		now = time.Now
	}
	return &Cache{source: source, now: now, entries: map[Platform]*cached{}}
}

// Collateral implements Source.
func (c *Cache) Collateral(ctx context.Context, p Platform) (*Collateral, error) {
	e, mine := c.entry(p)
	if mine {
		e.c, e.err = c.ask(ctx, p)
		if e.err != nil {
			c.forget(p, e)
		}
		close(e.done)
	}
	select {
	case <-e.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for collateral: %w", context.Cause(ctx))
	}
	// Whose question was given up by its asker is asked again.
	if !mine && errors.Is(e.err, context.Canceled) && ctx.Err() == nil {
		return c.Collateral(ctx, p)
	}
	return e.c, e.err
}

func (c *Cache) ask(ctx context.Context, p Platform) (*Collateral, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return c.source.Collateral(ctx, p)
}

// entry returns what is known of p. If that is nothing it is for the caller to
// ask.
func (c *Cache) entry(p Platform) (e *cached, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[p]; e != nil && c.now().Sub(e.at) < cacheLife {
		return e, false
	}
	if len(c.entries) >= maxCached {
		clear(c.entries)
	}
	e = &cached{done: make(chan struct{}), at: c.now()}
	c.entries[p] = e
	return e, true
}

func (c *Cache) forget(p Platform, e *cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries[p] == e {
		delete(c.entries, p)
	}
}
