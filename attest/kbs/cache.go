// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"cocoon/internal/stage"
)

// ErrClosed is returned by calls on a client that was closed.
var ErrClosed = errors.New("key broker client is closed")

// expiryMargin is how long before its expiry a token is no longer handed out,
// so that it survives the request it is used for; of a short life it is half.
const expiryMargin = 60 * time.Second

// session is one finished attestation: a token and the key it is bound to.
type session struct {
	jwt     string
	key     *teeKey
	cookies []*http.Cookie // of the handshake, for a token that no header holds
	minted  time.Time
	expiry  time.Time
}

func (s *session) usable(now time.Time) bool {
	if s == nil {
		return false
	}
	margin := min(expiryMargin, s.expiry.Sub(s.minted)/2)
	return now.Add(margin).Before(s.expiry)
}

// flight is one running attestation and those who wait for it.
type flight struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiters int // guarded by cache.mu

	session *session // valid after done is closed
	err     error    // valid after done is closed
}

// cache holds the last session and the attestation that will replace it.
type cache struct {
	mu      sync.Mutex // guards the fields below
	current *session
	flight  *flight
	closed  bool

	running sync.WaitGroup
}

// session returns a usable session other than stale. Callers that come while an
// attestation runs wait for that one. It runs on when one of them gives up, and
// is cancelled when all have.
func (c *Client) session(ctx context.Context, stale *session) (*session, error) {
	f, s, err := c.join(ctx, stale)
	if f == nil {
		return s, err
	}
	defer c.cache.leave(f)
	select {
	case <-f.done:
		return f.session, f.err
	case <-ctx.Done():
		return nil, stage.Errorf(stage.KBS, "wait for attestation: %w", context.Cause(ctx))
	}
}

func (c *Client) join(ctx context.Context, stale *session) (*flight, *session, error) {
	k := &c.cache
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil, nil, ErrClosed
	}
	if k.current != stale && k.current.usable(c.cfg.Now()) {
		return nil, k.current, nil
	}
	if k.flight == nil {
		k.flight = c.launch(ctx)
	}
	k.flight.waiters++
	return k.flight, nil, nil
}

// launch starts an attestation that no single caller can cancel. It ends a
// little before a call's own deadline, so that its cause is what the caller
// reports and not the expiry of his wait.
func (c *Client) launch(ctx context.Context) *flight {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.Deadline*9/10)
	f := &flight{done: make(chan struct{}), cancel: cancel}
	c.cache.running.Go(func() {
		defer cancel()
		f.session, f.err = c.attest(ctx)
		if f.err != nil {
			f.err = fmt.Errorf("attest to %s: %w", c.base.Host, f.err)
		}
		c.cache.land(f)
	})
	return f
}

func (k *cache) land(f *flight) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f.err == nil {
		k.current = f.session
	}
	if k.flight == f {
		k.flight = nil
	}
	close(f.done)
}

func (k *cache) leave(f *flight) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f.waiters--; f.waiters > 0 {
		return
	}
	f.cancel()
	if k.flight == f {
		// A caller who comes now must not join a cancelled attestation.
		k.flight = nil
	}
}

func (k *cache) close() {
	k.mu.Lock()
	k.closed = true
	k.current = nil
	if k.flight != nil {
		k.flight.cancel()
	}
	k.mu.Unlock()
	k.running.Wait()
}
