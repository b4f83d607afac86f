// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cocoon/internal/stage"
)

func TestAServerThatTheRootsDoNotVouchForIsRefused(t *testing.T) {
	t.Parallel()
	ca, other := newCA(t), newCA(t)
	hour := time.Now().Add(time.Hour)
	for name, tc := range map[string]struct {
		leaf tls.Certificate
		text string
	}{
		"other root":  {other.leaf(t, hour), "unknown authority"},
		"expired":     {ca.leaf(t, time.Now().Add(-time.Hour)), "expired"},
		"other name":  {ca.leaf(t, hour, "kbs.example.com"), "127.0.0.1"},
		"self-signed": {tls.Certificate{Certificate: [][]byte{other.cert.Raw}, PrivateKey: other.key}, "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := unstarted(t)
			b.start(ca, tc.leaf)
			for _, pin := range []bool{true, false} {
				cfg := b.config()
				cfg.PinRoots = pin
				failsWithin(t, newClient(t, cfg, &prover{}), stage.TLS, tc.text)
			}
			if n := b.count("auth"); n != 0 {
				t.Errorf("%d requests were sent", n)
			}
		})
	}
}

func TestAnOldTLSVersionIsRefused(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	b := unstarted(t)
	b.srv = httptest.NewUnstartedServer(http.HandlerFunc(b.serve))
	b.srv.Config.ErrorLog = discardLog()
	b.srv.TLS = &tls.Config{Certificates: []tls.Certificate{ca.leaf(t, time.Now().Add(time.Hour))}, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	b.srv.StartTLS()
	t.Cleanup(b.srv.Close)
	b.roots = ca.pem
	failsWithin(t, newClient(t, b.config(), &prover{}), stage.TLS, "protocol version")
}

func TestAPlainServerBehindAnHTTPSURLIsRefused(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	plain := httptest.NewServer(http.HandlerFunc(b.serve))
	t.Cleanup(plain.Close)
	cfg := b.config()
	cfg.URL = "https" + strings.TrimPrefix(plain.URL, "http")
	failsWithin(t, newClient(t, cfg, &prover{}), stage.TLS, "handshake")
	cfg.URL = plain.URL
	if _, err := newClient(t, cfg, &prover{}).Resource(t.Context(), "", "default/key/1", ""); err != nil {
		t.Errorf("http that the owner asked for: %v", err)
	}
}

func TestNobodyListeningIsStageConnect(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{URL: "https://" + l.Addr().String(), Deadline: 5 * time.Second}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	failsWithin(t, newClient(t, cfg, &prover{}), stage.Connect, "gave up after 8 attempts")
}

func TestAPeerThatNeverShakesHandsIsStageTLS(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel, never answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	cfg := Config{URL: "https://" + l.Addr().String(), HTTPTimeout: 600 * time.Millisecond, Deadline: 5 * time.Second}
	failsWithin(t, newClient(t, cfg, &prover{}), stage.TLS, "handshake")
}

func TestAHostThatDoesNotResolveIsStageDNS(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		rcode byte
		text  string
	}{"no such name": {3, "no such host"}, "server failure": {2, "gave up"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dns := nameServer(t, tc.rcode)
			dialer := &net.Dialer{Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "udp", dns)
			}}}
			cfg := Config{URL: "https://kbs.example.com", DialContext: dialer.DialContext, Deadline: 10 * time.Second}
			failsWithin(t, newClient(t, cfg, &prover{}), stage.DNS, tc.text)
		})
	}
}

// nameServer answers every question with rcode.
func nameServer(t *testing.T, rcode byte) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			q := buf[:n]
			// The question ends after its name and four bytes.
			end := 12 + bytes.IndexByte(q[12:], 0) + 5
			a := bytes.Clone(q[:end])
			a[2], a[3] = 0x81, 0x80|rcode
			copy(a[6:12], make([]byte, 6))
			if _, err := conn.WriteTo(a, from); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return conn.LocalAddr().String()
}
