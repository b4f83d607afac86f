// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package bounded reads data of a sender who may lie about its size.
//
// Everything that comes from the host, a registry or a key broker passes
// through a limit before it is kept in memory. A sender who exceeds the limit
// gets ErrTooLarge; data is never cut silently.
package bounded

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrTooLarge is returned when a sender offers more bytes than allowed.
var ErrTooLarge = errors.New("larger than allowed")

// ReadAll reads r to its end and returns what it held. If r holds more than
// limit bytes the error wraps ErrTooLarge and nothing is returned.
func ReadAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("more than %d bytes: %w", limit, ErrTooLarge)
	}
	return b, nil
}

// ReadFile reads a file as ReadAll does, without trust in the size that it has.
func ReadFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	b, err := ReadAll(f, limit)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read %q: %w", name, err)
	}
	return b, nil
}

// Reader passes r through and fails with ErrTooLarge as soon as r yields more
// than limit bytes in total.
func Reader(r io.Reader, limit int64) io.Reader {
	return &reader{r: r, left: limit, limit: limit}
}

type reader struct {
	r     io.Reader
	left  int64
	limit int64
}

func (b *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	// One byte more than is left, so that a source that ends exactly at the
	// limit still reports its own end.
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	if int64(n) > b.left {
		n = int(b.left)
		b.left = 0
		return n, fmt.Errorf("more than %d bytes: %w", b.limit, ErrTooLarge)
	}
	b.left -= int64(n)
	return n, err
}
