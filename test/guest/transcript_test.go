// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// transcript collects output and can be waited on.
type transcript struct {
	mu      sync.Mutex // guards what follows
	b       bytes.Buffer
	changed chan struct{}
}

func (b *transcript) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
	return b.b.Write(p)
}

func (b *transcript) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *transcript) next() (string, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	return b.b.String(), b.changed
}

// waitFor returns when text was written. It gives up after limit or when ended
// is closed.
func (b *transcript) waitFor(ctx context.Context, text string, limit time.Duration, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		s, changed := b.next()
		if strings.Contains(s, text) {
			return nil
		}
		select {
		case <-changed:
		case <-ended:
			if strings.Contains(b.String(), text) {
				return nil
			}
			return errors.New("it ended")
		case <-ctx.Done():
			return fmt.Errorf("%q was not seen: %w", text, ctx.Err())
		}
	}
}
