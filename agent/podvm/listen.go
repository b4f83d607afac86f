// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package podvm

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// DefaultAddr is where the adaptor connects.
const DefaultAddr = "0.0.0.0:15150"

// Limits on peers that have not proved who they are.
const (
	handshakeTimeout = 10 * time.Second
	maxHandshakes    = 64
	acceptPause      = 100 * time.Millisecond
)

// ErrTLS is returned when apf.json does not allow for a TLS server that knows
// its clients.
var ErrTLS = errors.New("no usable TLS configuration")

// ListenConfig sets the forwarder's listener up.
type ListenConfig struct {
	// Addr is the TCP address, DefaultAddr if empty.
	Addr string
	// APF holds the certificates. Where the image carries its own, the caller
	// puts their text in its place.
	APF *APF
	// Anonymous accepts every client if APF names no client CA, as stock
	// forwarders do. Without it that is an error.
	Anonymous bool
	// Log may be nil.
	Log *slog.Logger
}

// TLSConfig returns the server side of the forwarder's TLS: at least version
// 1.2, with a certificate required from the client.
//
// The adaptor's client CA is a self-signed certificate that is no CA, and the
// client shows the very same certificate. The standard verifier accepts that,
// since a certificate among the roots is its own chain.
func TLSConfig(a *APF, anonymous bool) (*tls.Config, error) {
	if a.ServerCert == "" || a.ServerKey == "" {
		return nil, fmt.Errorf("tls-server-cert or tls-server-key is missing: %w", ErrTLS)
	}
	cert, err := tls.X509KeyPair([]byte(a.ServerCert), []byte(a.ServerKey))
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w: %w", ErrTLS, err)
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	if err := profile(cfg, a); err != nil {
		return nil, err
	}
	switch {
	case a.ClientCA != "":
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(a.ClientCA)) {
			return nil, fmt.Errorf("tls-client-ca holds no certificate: %w", ErrTLS)
		}
		cfg.ClientCAs, cfg.ClientAuth = pool, tls.RequireAndVerifyClientCert
	case !anonymous:
		return nil, fmt.Errorf("tls-client-ca is missing: %w", ErrTLS)
	}
	return cfg, nil
}

// profile applies the adaptor's TLS profile, which may only be stricter.
func profile(cfg *tls.Config, a *APF) error {
	switch a.MinVersion {
	case "", "VersionTLS12":
	case "VersionTLS13":
		cfg.MinVersion = tls.VersionTLS13
	default:
		return fmt.Errorf("tls-min-version %.40q: %w", a.MinVersion, ErrTLS)
	}
	if len(a.CipherSuites) == 0 {
		return nil
	}
	if cfg.MinVersion == tls.VersionTLS13 {
		return fmt.Errorf("tls-cipher-suites with TLS 1.3: %w", ErrTLS)
	}
	known := map[string]uint16{}
	for _, s := range tls.CipherSuites() {
		known[s.Name] = s.ID
	}
	for _, name := range a.CipherSuites {
		id, ok := known[name]
		if !ok {
			return fmt.Errorf("cipher suite %.60q is unknown or insecure: %w", name, ErrTLS)
		}
		cfg.CipherSuites = append(cfg.CipherSuites, id)
	}
	return nil
}

// Listen listens for the adaptor until Close. Connections come out of Accept only after
// their handshake, so that a peer without certificate never reaches the agent.
func Listen(ctx context.Context, c ListenConfig) (net.Listener, error) {
	if c.APF == nil {
		return nil, fmt.Errorf("apf.json is missing: %w", ErrTLS)
	}
	cfg, err := TLSConfig(c.APF, c.Anonymous)
	if err != nil {
		return nil, err
	}
	if c.Addr == "" {
		c.Addr = DefaultAddr
	}
	var lc net.ListenConfig
	inner, err := lc.Listen(ctx, "tcp", c.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen for the adaptor: %w", err)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l := &listener{
		Listener: inner, tls: cfg, log: c.Log, ctx: life, cancel: cancel,
		ready: make(chan net.Conn), slots: make(chan struct{}, maxHandshakes),
	}
	l.wg.Go(l.run)
	return l, nil
}

// listener runs handshakes beside each other. ctx ends with the listener: it
// is not the context of any one call.
type listener struct {
	net.Listener
	tls    *tls.Config
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc
	ready  chan net.Conn
	slots  chan struct{}
	wg     sync.WaitGroup
}

// Accept returns the next connection whose peer proved who it is.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close ends the listener and the handshakes under way.
func (l *listener) Close() error {
	l.cancel()
	err := l.Listener.Close()
	l.wg.Wait()
	return err
}

func (l *listener) run() {
	for l.ctx.Err() == nil {
		c, err := l.Listener.Accept()
		if err != nil {
			l.pause(err)
			continue
		}
		select {
		case l.slots <- struct{}{}:
			l.wg.Go(func() {
				defer func() { <-l.slots }()
				l.handshake(c)
			})
		default:
			l.drop(c, errors.New("too many handshakes at once"))
		}
	}
}

// pause waits a little when connections cannot be accepted for want of
// descriptors.
func (l *listener) pause(err error) {
	if l.ctx.Err() != nil {
		return
	}
	l.log.Warn("cannot accept a connection", "error", err)
	t := time.NewTimer(acceptPause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.ctx.Done():
	}
}

func (l *listener) handshake(raw net.Conn) {
	ctx, cancel := context.WithTimeout(l.ctx, handshakeTimeout)
	defer cancel()
	c := tls.Server(raw, l.tls)
	if err := c.HandshakeContext(ctx); err != nil {
		l.drop(raw, err)
		return
	}
	select {
	case l.ready <- c:
	case <-l.ctx.Done():
		l.drop(raw, net.ErrClosed)
	}
}

func (l *listener) drop(c net.Conn, cause error) {
	l.log.Info("connection refused", "peer", c.RemoteAddr().String(), "error", cause)
	// The connection is given up; how its close ends changes nothing.
	_ = c.Close()
}
