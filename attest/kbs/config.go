// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"cocoon/internal/stage"
)

// Defaults of Config.
const (
	DefaultHTTPTimeout = 20 * time.Second
	// DefaultDeadline stays below the 50 s that callers of the attestation
	// agent's socket wait.
	DefaultDeadline = 45 * time.Second
)

const maxRootsPEM = 1 << 20

// Config says which key broker to use and how long to wait for it.
type Config struct {
	// URL is the broker's base URL, https or http, without the /kbs/v0 part.
	// Over http the token travels in the clear; secrets stay encrypted to the
	// TEE key. Only the owner's configuration can choose http, no redirect can.
	URL string
	// RootCertsPEM holds root certificates to trust beside the system's.
	RootCertsPEM []byte
	// PinRoots trusts RootCertsPEM only.
	PinRoots bool
	// Proxy is used where it says so; the environment's is not.
	Proxy Proxy
	// TEEKeyAlgorithm is one of the KeyXxx constants; empty means KeyP256.
	TEEKeyAlgorithm string
	// InitData is the exact initdata TOML text, empty if there is none.
	InitData []byte
	// HTTPTimeout bounds one HTTP exchange, body included; 0 means
	// DefaultHTTPTimeout.
	HTTPTimeout time.Duration
	// Deadline bounds one Resource or Token call with all its retries; 0 means
	// DefaultDeadline.
	Deadline time.Duration
	// Log receives one line per attestation and per retry; nil discards them.
	Log *slog.Logger
	// Now is the clock for certificates and token life; nil means time.Now.
	Now func() time.Time
	// DialContext opens TCP connections; nil means a plain net.Dialer.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

// New returns a client for the broker of cfg that proves itself by ev. It opens
// no connection. Errors have stage config.
func New(cfg Config, ev Evidencer) (*Client, error) {
	if ev == nil {
		return nil, stage.Errorf(stage.Config, "key broker client without a source of evidence")
	}
	base, err := parseBase(cfg.URL)
	if err != nil {
		return nil, stage.Wrap(stage.Config, err)
	}
	alg, err := keyAlgorithmOf(cfg.TEEKeyAlgorithm)
	if err != nil {
		return nil, stage.Wrap(stage.Config, err)
	}
	if !utf8.Valid(cfg.InitData) {
		return nil, stage.Errorf(stage.Config, "initdata is not UTF-8 text")
	}
	roots, err := rootPool(cfg)
	if err != nil {
		return nil, stage.Wrap(stage.Config, err)
	}
	proxy, err := cfg.Proxy.function()
	if err != nil {
		return nil, stage.Wrap(stage.Config, err)
	}
	cfg = withDefaults(cfg)
	if base.Scheme == "http" {
		cfg.Log.Warn("key broker is configured without TLS", "url", base.String())
	}
	return &Client{
		cfg: cfg, base: base, alg: alg, ev: ev,
		http:   newHTTPClient(cfg, roots, proxy),
		retry:  newRetrier(cfg.Log),
		nonces: newNonceMemory(),
	}, nil
}

func withDefaults(cfg Config) Config {
	if cfg.HTTPTimeout <= 0 {
		cfg.HTTPTimeout = DefaultHTTPTimeout
	}
	if cfg.Deadline <= 0 {
		cfg.Deadline = DefaultDeadline
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.DialContext == nil {
		cfg.DialContext = (&net.Dialer{}).DialContext
	}
	return cfg
}

// parseBase checks the configured URL. Its text goes into errors and logs, so
// it must not hold credentials.
func parseBase(raw string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimRight(raw, "/"))
	if err != nil {
		return nil, errors.New("key broker URL does not parse")
	}
	switch {
	case u.User != nil:
		return nil, errors.New("key broker URL must not hold credentials")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("key broker URL %q: scheme must be https or http", raw)
	case u.Hostname() == "":
		return nil, fmt.Errorf("key broker URL %q names no host", raw)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, fmt.Errorf("key broker URL %q has a query or fragment", raw)
	}
	return u, nil
}

// rootPool returns the trusted roots. A certificate that does not parse is an
// error, because a root that is silently absent looks like a network problem.
func rootPool(cfg Config) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !cfg.PinRoots {
		system, err := x509.SystemCertPool()
		if err != nil && len(cfg.RootCertsPEM) == 0 {
			return nil, fmt.Errorf("read system root certificates: %w", err)
		}
		if err == nil {
			pool = system
		}
	}
	n, err := addRoots(pool, cfg.RootCertsPEM)
	if err != nil {
		return nil, err
	}
	if cfg.PinRoots && n == 0 {
		return nil, errors.New("root certificates are pinned but none is given")
	}
	return pool, nil
}

func addRoots(pool *x509.CertPool, text []byte) (int, error) {
	if len(text) > maxRootsPEM {
		return 0, fmt.Errorf("root certificates of %d bytes, at most %d are read", len(text), maxRootsPEM)
	}
	n := 0
	for rest := text; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if strings.TrimSpace(string(rest)) != "" {
				return 0, fmt.Errorf("root certificates: %d bytes after certificate %d are not PEM", len(rest), n)
			}
			return n, nil
		}
		if block.Type != "CERTIFICATE" {
			return 0, fmt.Errorf("root certificates: PEM block %d is a %q, not a certificate", n+1, block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return 0, fmt.Errorf("root certificate %d: %w", n+1, err)
		}
		pool.AddCert(cert)
	}
}
