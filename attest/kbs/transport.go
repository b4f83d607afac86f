// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"cocoon/internal/stage"
)

const (
	maxIdleConns   = 2
	idleTimeout    = 30 * time.Second
	maxHeaderBytes = 64 << 10
)

// dialer opens connections and tells apart how they fail.
type dialer struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	tls  *tls.Config
	// timeout bounds the TCP connect with its name lookup, and once more the
	// handshake. It is well below the HTTP timeout, so that a silent network
	// is reported as such.
	timeout time.Duration
}

// newHTTPClient returns a client that follows no redirect, asks no proxy but the
// one of the configuration and does not inflate compressed answers, whose size a
// limit could not foresee.
func newHTTPClient(cfg Config, roots *x509.CertPool, proxy func(*http.Request) (*url.URL, error)) *http.Client {
	d := dialer{dial: cfg.DialContext, tls: &tls.Config{
		RootCAs: roots, MinVersion: tls.VersionTLS12, Time: cfg.Now,
	}, timeout: cfg.HTTPTimeout / 3}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                  proxy,
			DialContext:            d.plain,
			DialTLSContext:         d.secure,
			TLSClientConfig:        d.tls, // inside a proxy's tunnel
			TLSHandshakeTimeout:    d.timeout,
			DisableCompression:     true,
			MaxIdleConns:           maxIdleConns,
			IdleConnTimeout:        idleTimeout,
			MaxResponseHeaderBytes: maxHeaderBytes,
		},
	}
}

func (d dialer) plain(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	conn, err := d.dial(ctx, network, addr)
	if err == nil {
		return conn, nil
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		err = fmt.Errorf("resolve %q: %w", addr, err)
		if !dns.IsNotFound {
			err = &unreachable{err}
		}
		return nil, stage.Wrap(stage.DNS, err)
	}
	return nil, stage.Wrap(stage.Connect, &unreachable{err})
}

func (d dialer) secure(ctx context.Context, network, addr string) (net.Conn, error) {
	raw, err := d.plain(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	cfg := d.tls.Clone()
	if cfg.ServerName, _, err = net.SplitHostPort(addr); err != nil {
		return nil, stage.Wrap(stage.TLS, errors.Join(err, raw.Close()))
	}
	conn := tls.Client(raw, cfg)
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		err = fmt.Errorf("handshake with %q: %w", addr, err)
		if brokenOff(err) {
			err = &unreachable{err}
		}
		// The handshake's error is the cause; closing what it broke can add none.
		_ = raw.Close()
		return nil, stage.Wrap(stage.TLS, err)
	}
	return conn, nil
}

// brokenOff says that the peer or the network fell silent or cut the line,
// rather than having said something wrong.
func brokenOff(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
