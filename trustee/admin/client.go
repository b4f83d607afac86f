// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"cocoon/internal/bounded"
)

const (
	timeout   = 30 * time.Second
	tokenLife = 2 * time.Minute
	maxAnswer = 32 << 20
)

// ErrNotFound is returned when the broker does not have what was named.
var ErrNotFound = errors.New("not found")

// Client calls the administration interface of one broker.
type Client struct {
	base string
	key  ed25519.PrivateKey
	http *http.Client
	now  func() time.Time
}

// ClientConfig says which broker to call and as whom.
type ClientConfig struct {
	// URL is https://host:port of the broker.
	URL string
	// CA is the PEM of the authorities that its certificate must come from.
	CA []byte
	// Key signs the calls.
	Key ed25519.PrivateKey
	// Now tells the time; nil means time.Now.
	Now func() time.Time
}

// NewClient returns a client; it does not connect yet.
func NewClient(cfg ClientConfig) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("parse broker URL: %w", err)
	}
	if u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("broker URL %q, want https://host:port", cfg.URL)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(cfg.CA) {
		return nil, errors.New("CA file holds no PEM certificate")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Client{
		base: strings.TrimSuffix(cfg.URL, "/") + "/kbs/v0/",
		key:  cfg.Key,
		now:  cfg.Now,
		http: &http.Client{
			Timeout:       timeout,
			Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// SetResource stores data under path, repository/type/tag.
func (c *Client) SetResource(ctx context.Context, path string, data []byte) error {
	_, err := c.do(ctx, http.MethodPost, "resource/"+path, data)
	return err
}

// Resource returns the stored bytes of path.
func (c *Client) Resource(ctx context.Context, path string) ([]byte, error) {
	return c.do(ctx, http.MethodGet, "admin/resource/"+path, nil)
}

// DeleteResource removes path.
func (c *Client) DeleteResource(ctx context.Context, path string) error {
	_, err := c.do(ctx, http.MethodDelete, "resource/"+path, nil)
	return err
}

// Resources lists the names of all secrets.
func (c *Client) Resources(ctx context.Context) ([]string, error) {
	var names []string
	return names, c.get(ctx, "admin/resources", &names)
}

// SetResourcePolicy replaces the policy that guards all resources.
func (c *Client) SetResourcePolicy(ctx context.Context, text string) error {
	return c.post(ctx, "resource-policy", map[string]string{"policy": base64.RawURLEncoding.EncodeToString([]byte(text))})
}

// ResourcePolicy returns the text of the policy that guards all resources.
func (c *Client) ResourcePolicy(ctx context.Context) (string, error) {
	raw, err := c.do(ctx, http.MethodGet, "admin/resource-policy", nil)
	return string(raw), err
}

// SetAttestationPolicy replaces the attestation policy id, such as default_cpu.
func (c *Client) SetAttestationPolicy(ctx context.Context, id, text string) error {
	return c.post(ctx, "attestation-policy", map[string]string{
		"type": "rego", "policy_id": id, "policy": base64.RawURLEncoding.EncodeToString([]byte(text)),
	})
}

// AttestationPolicy returns the text of the attestation policy id.
func (c *Client) AttestationPolicy(ctx context.Context, id string) (string, error) {
	raw, err := c.do(ctx, http.MethodGet, "admin/attestation-policy/"+url.PathEscape(id), nil)
	return string(raw), err
}

// RegisterReferenceValues sends an RVPS message.
func (c *Client) RegisterReferenceValues(ctx context.Context, message []byte) error {
	_, err := c.do(ctx, http.MethodPost, "reference-value", message)
	return err
}

// ReferenceValue is one entry of the list of reference values.
type ReferenceValue struct {
	Name       string          `json:"name"`
	Expiration time.Time       `json:"expiration"`
	Value      json.RawMessage `json:"value"`
	// Signer is the SHA-256 of the key that vouched for the value, if one did.
	Signer string `json:"signer"`
}

// ReferenceValues lists all values, the expired ones included.
func (c *Client) ReferenceValues(ctx context.Context) ([]ReferenceValue, error) {
	var values []ReferenceValue
	return values, c.get(ctx, "admin/reference-values", &values)
}

// ReferenceValue returns the JSON of the value name as policies see it; one
// that has expired is not found.
func (c *Client) ReferenceValue(ctx context.Context, name string) ([]byte, error) {
	return c.do(ctx, http.MethodGet, "reference-value/"+url.PathEscape(name), nil)
}

// DeleteReferenceValue removes the value name.
func (c *Client) DeleteReferenceValue(ctx context.Context, name string) error {
	_, err := c.do(ctx, http.MethodDelete, "admin/reference-value/"+url.PathEscape(name), nil)
	return err
}

func (c *Client) post(ctx context.Context, path string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	_, err = c.do(ctx, http.MethodPost, path, body)
	return err
}

func (c *Client) get(ctx context.Context, path string, v any) error {
	raw, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("parse answer to %q: %w", path, err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	token, err := NewToken(c.key, c.now(), tokenLife)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err // names method and URL
	}
	defer func() { _ = res.Body.Close() }() // only read from
	answer, err := bounded.ReadAll(res.Body, maxAnswer)
	if err != nil {
		return nil, fmt.Errorf("%s %s: read answer: %w", method, path, err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %w", method, path, problemOf(res.StatusCode, answer))
	}
	return answer, nil
}

// problemOf turns an error answer into one line.
func problemOf(status int, body []byte) error {
	var p struct {
		Type   string `json:"type"`
		Detail string `json:"detail"`
	}
	text := fmt.Sprintf("status %d", status)
	if err := json.Unmarshal(body, &p); err == nil && p.Detail != "" {
		text = fmt.Sprintf("%s (%s)", strings.Join(strings.Fields(p.Detail), " "), text)
	}
	if status == http.StatusNotFound {
		return fmt.Errorf("%w: %s", ErrNotFound, text)
	}
	return errors.New(text)
}
