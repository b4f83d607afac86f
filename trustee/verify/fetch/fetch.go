// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package fetch asks a vendor's service for what evidence does not bring.
//
// Trust: what comes back is signed by the vendor and checked by the caller; the
// service decides only whether something comes. Answers are bounded.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"golang.org/x/time/rate"

	"cocoon/internal/bounded"
)

// ErrNotFound is returned where the service does not have it (404).
var ErrNotFound = errors.New("not found")

// ErrLater is returned where asking again may help: the service could not be
// reached, is busy (429) or failed (5xx).
var ErrLater = errors.New("the service does not serve now")

// ErrBusy is returned for a question that would be one too many.
var ErrBusy = errors.New("the service is asked too often, some evidence has to wait")

// Limited is a transport for a service that anybody who sends evidence can have
// asked: it asks only so often, and refuses the rest at once.
type Limited struct {
	Base  http.RoundTripper
	Limit *rate.Limiter
}

// RoundTrip implements http.RoundTripper.
func (l Limited) RoundTrip(r *http.Request) (*http.Response, error) {
	if !l.Limit.Allow() {
		err := ErrBusy
		if r.Body != nil {
			err = errors.Join(err, r.Body.Close())
		}
		return nil, err
	}
	return l.Base.RoundTrip(r)
}

// Get returns the body, of at most limit bytes, and the header of the answer.
func Get(ctx context.Context, c *http.Client, address string, limit int64) (_ []byte, _ http.Header, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrLater, err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, nil, fmt.Errorf("%s: %w", req.URL.Path, ErrNotFound)
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= http.StatusInternalServerError:
		return nil, nil, fmt.Errorf("%w: it answers %s", ErrLater, resp.Status)
	case resp.StatusCode != http.StatusOK:
		return nil, nil, fmt.Errorf("the service answers %s", resp.Status)
	}
	b, err := bounded.ReadAll(resp.Body, limit)
	return b, resp.Header, err
}
