// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"

	"cocoon/internal/bounded"
	"cocoon/internal/stage"
)

const (
	basePath  = "/kbs/v0/"
	userAgent = "attestation-agent-kbs-client/0.1.0"

	maxAnswer   = 1 << 20  // challenge and token; a secure execution challenge carries an image header
	maxResource = 16 << 20 // brokers take secrets of a few MiB
	maxProblem  = 16 << 10
)

// call is one HTTP request to the broker.
type call struct {
	method, path, query string
	body                []byte
	bearer              string
	cookies             []*http.Cookie
	limit               int64 // of the answer's body
}

type answer struct {
	body    []byte
	cookies []*http.Cookie
}

// exchange sends one request and reads its answer, within the HTTP timeout. It
// returns a *Problem for every status but 200.
func (c *Client) exchange(ctx context.Context, k call) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.HTTPTimeout)
	defer cancel()
	req, err := c.request(ctx, k)
	if err != nil {
		return answer{}, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, networkError(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return answer{}, readProblem(resp)
	}
	if err := checkContentType(resp.Header.Get("Content-Type")); err != nil {
		return answer{}, stage.Wrap(stage.KBS, err)
	}
	body, err := bounded.ReadAll(resp.Body, k.limit)
	if errors.Is(err, bounded.ErrTooLarge) {
		return answer{}, stage.Errorf(stage.KBS, "answer to %s: %w", k.path, err)
	}
	if err == nil {
		// A server that sees the deadline pass may end its half-sent answer
		// properly, and that end may still come in.
		err = ctx.Err()
	}
	if err != nil {
		return answer{}, networkError(err)
	}
	return answer{body: body, cookies: resp.Cookies()}, nil
}

func (c *Client) request(ctx context.Context, k call) (*http.Request, error) {
	u := *c.base
	u.Path += basePath + k.path
	u.RawQuery = k.query
	req, err := http.NewRequestWithContext(ctx, k.method, u.String(), bytes.NewReader(k.body))
	if err != nil {
		return nil, stage.Errorf(stage.Config, "make request for %s: %w", k.path, err)
	}
	if k.method == http.MethodGet {
		req.Body = http.NoBody
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent)
	if k.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+k.bearer)
	}
	for _, cookie := range k.cookies {
		req.AddCookie(&http.Cookie{Name: cookie.Name, Value: cookie.Value})
	}
	return req, nil
}

// checkContentType refuses what says that it is not JSON, such as the page of a
// captive portal. Some brokers say nothing.
func checkContentType(value string) error {
	if value == "" {
		return nil
	}
	if t, _, err := mime.ParseMediaType(value); err != nil || t != "application/json" {
		return fmt.Errorf("answer has content type %.64q, want application/json", value)
	}
	return nil
}

// unreachable is a failure of the network that another attempt may not meet.
type unreachable struct{ err error }

func (u *unreachable) Error() string { return u.err.Error() }
func (u *unreachable) Unwrap() error { return u.err }

// networkError marks a failure without an answer. Stages set while dialling are
// kept; after that the connection stood, and the broker did not answer on it.
func networkError(err error) error {
	// The URL in it is the configured one, which the caller names already.
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("connection closed before the answer: %w", err)
	}
	if stage.Of(err) == "" && brokenOff(err) {
		err = &unreachable{err}
	}
	return stage.Wrap(stage.KBS, err)
}
