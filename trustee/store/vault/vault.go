// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package vault keeps a broker's secrets in the key-value engine of HashiCorp
// Vault or OpenBao, version 1 or 2, by its HTTP API.
//
// The layout is the one of the upstream broker: a secret repository/type/tag is
// the entry of that path, and its bytes are the field "data", as a list of
// numbers. An entry that a person made, with text in that field, is read as the
// bytes of the text. Of the API this takes five calls, so the vendor's client,
// with all that it brings, is not used.
//
// Trust: the operator of the broker trusts Vault with the secrets, over TLS.
// Names from clients are validated paths. An answer may still be wrong: each is
// bounded, and none that is not understood becomes a secret.
package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"cocoon/trustee/store"
)

const (
	defaultTimeout = 20 * time.Second
	// maxAnswer has room for a secret as a list of numbers.
	maxAnswer = 4*store.MaxResource + 64<<10
	maxToken  = 64 << 10
)

// ErrConfig is wrapped by errors about a Config or about a Vault that is not as
// it says.
var ErrConfig = errors.New("wrong settings for Vault")

// Config says where the secrets are.
type Config struct {
	// Address is Vault's, https://host:port. Without TLS only on this machine.
	Address string
	// Mount is the path of the engine, and Version its version, 1 or 2.
	Mount   string
	Version int
	// Prefix is a path below which all secrets are; it may be empty.
	Prefix string
	// Namespace is that of an enterprise installation; it may be empty.
	Namespace string
	// TokenFile holds the broker's token. It is read for each call, so that an
	// agent may renew it.
	TokenFile string
	// CAFile holds the roots to trust, in PEM; empty means the machine's.
	CAFile string
	// Timeout bounds one call; 0 means 20 seconds.
	Timeout time.Duration
}

// Resources are the secrets in one Vault. It is safe for concurrent use.
type Resources struct {
	cfg    Config
	client *http.Client
}

// New checks the settings. Nothing is asked before the first call; see Check.
func New(cfg Config) (*Resources, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: cfg.Timeout, IdleConnTimeout: time.Minute}
	if cfg.CAFile != "" {
		raw, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("roots for Vault: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("%w: no certificate in %q", ErrConfig, cfg.CAFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &Resources{cfg: cfg, client: &http.Client{
		Transport: transport, Timeout: cfg.Timeout,
		// A redirect could lead the token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Close ends idle connections.
func (r *Resources) Close() error {
	r.client.CloseIdleConnections()
	return nil
}

func (c *Config) check() error {
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	u, err := url.Parse(c.Address)
	if err != nil {
		return fmt.Errorf("%w: address: %w", ErrConfig, err)
	}
	switch {
	case u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())):
		return fmt.Errorf("%w: address %q: only https, or http on this machine", ErrConfig, u.Redacted())
	case u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("%w: address %q is not https://host:port", ErrConfig, u.Redacted())
	case c.Version != 1 && c.Version != 2:
		return fmt.Errorf("%w: version %d of the engine, there are 1 and 2", ErrConfig, c.Version)
	case c.TokenFile == "":
		return fmt.Errorf("%w: no file with a token", ErrConfig)
	}
	c.Address = strings.TrimRight(c.Address, "/")
	for name, path := range map[string]*string{"mount": &c.Mount, "prefix": &c.Prefix} {
		*path = strings.Trim(*path, "/")
		for _, seg := range strings.Split(*path, "/") {
			if *path != "" && (seg == "" || seg == "." || seg == ".." || url.PathEscape(seg) != seg) {
				return fmt.Errorf("%w: %s %q", ErrConfig, name, *path)
			}
		}
	}
	if c.Mount == "" {
		return fmt.Errorf("%w: no mount", ErrConfig)
	}
	return nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// Check asks Vault whether the engine is there and of the version that the
// settings name: asked in the way of the other version, Vault keeps secrets in
// the wrong place without an error.
func (r *Resources) Check(ctx context.Context) error {
	var m struct {
		Data struct {
			Type    string            `json:"type"`
			Options map[string]string `json:"options"`
		} `json:"data"`
	}
	found, err := r.call(ctx, http.MethodGet, "sys/internal/ui/mounts/"+r.cfg.Mount, nil, &m)
	if err != nil {
		return fmt.Errorf("look at the mount %q: %w", r.cfg.Mount, err)
	}
	version := m.Data.Options["version"]
	if version == "" {
		version = "1"
	}
	if !found || m.Data.Type != "kv" || version != fmt.Sprint(r.cfg.Version) {
		return fmt.Errorf("%w: mount %q is of type %q, version %s; want kv, version %d", ErrConfig, r.cfg.Mount, m.Data.Type, version, r.cfg.Version)
	}
	return nil
}
