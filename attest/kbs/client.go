// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"cocoon/internal/stage"
)

// Evidencer is the guest's TEE.
type Evidencer interface {
	// TEE is the platform's name on the wire, for example "snp".
	TEE() string
	// Evidence returns evidence with runtimeData bound into it.
	Evidence(ctx context.Context, runtimeData []byte) (json.RawMessage, error)
}

// AdditionalEvidencer is an Evidencer that has devices beside the TEE.
type AdditionalEvidencer interface {
	// AdditionalEvidence returns the JSON text of an object from device kind
	// to evidence, or nothing if there is no device.
	AdditionalEvidence(ctx context.Context, runtimeData []byte) ([]byte, error)
}

// Token is what an attestation yields.
type Token struct {
	JWT    string // the broker's token, not verified by the guest
	KeyPEM []byte // the TEE private key: EC as PKCS#8, RSA as PKCS#1
}

// String hides the content, which is secret.
func (Token) String() string { return "token (not shown)" }

// GoString hides the content, which is secret.
func (t Token) GoString() string { return t.String() }

// LogValue hides the content, which is secret.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// Client talks to one key broker. It is safe for concurrent use.
type Client struct {
	cfg    Config
	base   *url.URL
	alg    keyAlgorithm
	ev     Evidencer
	http   *http.Client
	retry  retrier
	nonces *nonceMemory
	cache  cache
}

// Close ends a running attestation, waits for it and closes idle connections.
// Calls that follow fail with ErrClosed.
func (c *Client) Close() error {
	c.cache.close()
	c.http.CloseIdleConnections()
	return nil
}

// Token returns the cached token, or attests for one.
func (c *Client) Token(ctx context.Context) (Token, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Deadline)
	defer cancel()
	s, err := c.session(ctx, nil)
	if err != nil {
		return Token{}, fmt.Errorf("get token: %w", err)
	}
	key, err := s.key.pem()
	if err != nil {
		return Token{}, fmt.Errorf("get token: %w", err)
	}
	return Token{JWT: s.jwt, KeyPEM: key}, nil
}

// Resource fetches and decrypts one secret. plugin is "resource" for stored
// secrets, whose path is repository/type/tag; query may be empty. The stage of
// an error tells attest-denied, resource-policy, not-found and the rest apart.
func (c *Client) Resource(ctx context.Context, plugin, path, query string) ([]byte, error) {
	p, err := NewResourcePath(plugin, path, query)
	if err != nil {
		return nil, stage.Wrap(stage.NotFound, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Deadline)
	defer cancel()
	b, err := c.resource(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", p, err)
	}
	return b, nil
}

func (c *Client) resource(ctx context.Context, p ResourcePath) ([]byte, error) {
	s, err := c.session(ctx, nil)
	if err != nil {
		return nil, err
	}
	body, err := c.fetch(ctx, p, s)
	if c.wantsFreshToken(err, s) {
		if s, err = c.session(ctx, s); err != nil {
			return nil, err
		}
		body, err = c.fetch(ctx, p, s)
	}
	if err != nil {
		return nil, err
	}
	plain, err := s.key.decrypt(body)
	if err != nil {
		return nil, stage.Errorf(stage.Decrypt, "open the key broker's answer: %w", err)
	}
	return plain, nil
}

// youngToken is the age up to which a token is not blamed for a denial of one
// resource. Brokers answer 401 for a missing secret as well; without this, a
// workload that polls for one would attest at each turn. An older token is
// replaced, as reference values may have changed since it was made.
const youngToken = 10 * time.Second

func (c *Client) wantsFreshToken(err error, s *session) bool {
	p, ok := problemOf(err)
	if !ok || p.Status != http.StatusUnauthorized && p.Type != "PolicyDeny" {
		return false
	}
	age := c.cfg.Now().Sub(s.minted)
	return !p.aboutResource() || age < 0 || age > youngToken
}

// fetch gets the encrypted resource, by one of token and session cookie: on the
// server the cookie wins, and it may outlive the key of this session. So it is
// used only where the token is too large for a header.
func (c *Client) fetch(ctx context.Context, p ResourcePath, s *session) ([]byte, error) {
	k := call{method: http.MethodGet, path: p.plugin + "/" + p.path, query: p.query, bearer: s.jwt, limit: maxResource}
	if len(s.jwt) > maxBearer {
		k.bearer, k.cookies = "", s.cookies
	}
	var body []byte
	err := c.retry.do(ctx, "get resource", func(ctx context.Context) error {
		a, err := c.exchange(ctx, k)
		body = a.body
		return resourceStage(p, err)
	})
	return body, err
}
