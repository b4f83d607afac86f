// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cocoas gets tokens from a CoCo attestation service by its REST
// interface, as the attestation agent does for tokens of type coco_as.
//
// Trust: the service is not trusted with anything. What it answers goes to a
// workload as it is; whoever is shown the token checks its signature. Such a
// token is about evidence without a nonce and is bound to no key: whoever has it
// can show it.
package cocoas

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"cocoon/internal/bounded"
	"cocoon/internal/stage"
)

const (
	// DefaultTimeout bounds a question.
	DefaultTimeout = 20 * time.Second

	path      = "/attestation"
	maxToken  = 512 << 10
	maxDetail = 512
	maxRoots  = 1 << 20
)

// ErrAnswer is returned for an answer that is no token.
var ErrAnswer = errors.New("the attestation service gave no token")

// Config says which service to ask.
type Config struct {
	// URL is the service's, https or http, without the path.
	URL string
	// RootCertsPEM holds root certificates to trust beside the system's.
	RootCertsPEM []byte
	// PinRoots trusts RootCertsPEM only.
	PinRoots bool
	// Timeout bounds a question; 0 means DefaultTimeout.
	Timeout time.Duration
	// Now is the clock for certificates; nil means time.Now.
	Now func() time.Time
}

// Client asks one service. It is safe for concurrent use.
type Client struct {
	url  string
	http *http.Client
}

// New returns a client. It opens no connection. Errors have stage config.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(strings.TrimRight(cfg.URL, "/"))
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, stage.Errorf(stage.Config, "URL of the attestation service is none of https or http without credentials, query and fragment")
	}
	roots, err := pool(cfg)
	if err != nil {
		return nil, stage.Errorf(stage.Config, "attestation service: %w", err)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	return &Client{url: u.String() + path, http: &http.Client{
		Timeout:       cfg.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DisableKeepAlives: true, DisableCompression: true,
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, Time: cfg.Now},
		},
	}}, nil
}

func pool(cfg Config) (*x509.CertPool, error) {
	roots := x509.NewCertPool()
	if !cfg.PinRoots {
		system, err := x509.SystemCertPool()
		if err != nil && len(cfg.RootCertsPEM) == 0 {
			return nil, fmt.Errorf("load the system's root certificates: %w", err)
		}
		if err == nil {
			roots = system
		}
	}
	rest := cfg.RootCertsPEM
	if len(rest) > maxRoots {
		return nil, fmt.Errorf("%d bytes of root certificates, at most %d", len(rest), maxRoots)
	}
	for len(bytes.TrimSpace(rest)) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("root certificates are not all certificates in PEM")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("root certificate: %w", err)
		}
		roots.AddCert(cert)
	}
	return roots, nil
}

// Token has evidence of a TEE judged by the service's default policy, and
// returns the token.
func (c *Client) Token(ctx context.Context, tee string, evidence []byte) ([]byte, error) {
	type item struct {
		TEE      string `json:"tee"`
		Evidence string `json:"evidence"`
	}
	body, err := json.Marshal(struct {
		Items     []item   `json:"verification_requests"`
		PolicyIDs []string `json:"policy_ids"`
	}{[]item{{tee, base64.RawURLEncoding.EncodeToString(evidence)}}, []string{}})
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	token, err := c.post(ctx, body)
	if err != nil {
		at := stage.Connect
		if errors.Is(err, ErrAnswer) {
			at = stage.AttestDenied
		}
		return nil, stage.Errorf(at, "ask the attestation service: %w", err)
	}
	return token, nil
}

func (c *Client) post(ctx context.Context, body []byte) (_ []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if resp.StatusCode != http.StatusOK {
		detail, err := io.ReadAll(io.LimitReader(resp.Body, maxDetail))
		if err != nil {
			return nil, fmt.Errorf("%w: it answered %s", ErrAnswer, resp.Status)
		}
		return nil, fmt.Errorf("%w: it answered %s: %q", ErrAnswer, resp.Status, detail)
	}
	token, err := bounded.ReadAll(resp.Body, maxToken)
	if err != nil {
		return nil, fmt.Errorf("read the token: %w", err)
	}
	return check(token)
}

// check makes sure that what came has the form of a JWT.
func check(b []byte) ([]byte, error) {
	b = bytes.TrimSpace(b)
	parts := bytes.Split(b, []byte("."))
	if len(parts) != 3 {
		return nil, fmt.Errorf("%w: %d parts", ErrAnswer, len(parts))
	}
	for i, p := range parts {
		if _, err := base64.RawURLEncoding.DecodeString(string(p)); err != nil || len(p) == 0 {
			return nil, fmt.Errorf("%w: part %d is no base64url", ErrAnswer, i)
		}
	}
	return b, nil
}
