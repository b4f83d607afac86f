// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"cocoon/trustee/server"
	"cocoon/trustee/store"
)

func TestOversizeBodiesAreRefused(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	g := b.attested(t)
	big := bytes.Repeat([]byte{'x'}, store.MaxResource+1)
	for _, path := range []string{"auth", "attest", "resource/a/b/c", "resource-policy", "attestation-policy", "reference-value"} {
		a := g.send(t, request{method: http.MethodPost, path: "/kbs/v0/" + path, body: big, bearer: b.adminToken(t, 0), cookie: g.cookie})
		a.want(t, http.StatusRequestEntityTooLarge, "HTTPFailed", "at most")
	}
	if err := b.admin.SetResource(t.Context(), "a/b/c", big[1:]); err != nil {
		t.Fatalf("the largest secret: %v", err)
	}
	if got := g.open(t, g.byToken(t, "a/b/c")); len(got) != store.MaxResource {
		t.Fatalf("got %d bytes", len(got))
	}
}

func TestAStrangersFirstRequestIsSmall(t *testing.T) {
	t.Parallel()
	g := start(t, nil).guest(t)
	body := fmt.Sprintf(`{"version":"0.4.0","tee":"sample","extra-params":"%s"}`, bytes.Repeat([]byte{'x'}, 64<<10))
	g.send(t, request{method: http.MethodPost, path: "/kbs/v0/auth", body: []byte(body)}).want(t, http.StatusRequestEntityTooLarge, "HTTPFailed", "at most 65536")
}

func TestAConnectionCarriesOneRequestAtATime(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(b.ca)
	for _, offer := range [][]string{{"h2", "http/1.1"}, {"http/1.1"}, nil} {
		d := &tls.Dialer{Config: &tls.Config{RootCAs: pool, NextProtos: offer}}
		conn := must[net.Conn](t)(d.DialContext(t.Context(), "tcp", b.addr))
		if got := conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; got == "h2" {
			t.Errorf("offered %q, the server chose %q", offer, got)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestABodyOfUnknownLengthIsBoundedToo(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	g := b.guest(t)
	endless := io.LimitReader(zeros{}, 16<<20)
	req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+"/kbs/v0/auth", endless))
	res, err := g.http.Do(req)
	if err != nil {
		return // cut off while it sent
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Fatalf("status %d", res.StatusCode)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestASlowClientIsCutOff(t *testing.T) {
	t.Parallel()
	b := start(t, func(c *server.Config) { c.ReadTimeout = time.Second })
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(b.ca)
	for name, text := range map[string]string{
		"silent":    "",
		"half head": "POST /kbs/v0/auth HTTP/1.1\r\nHost:",
		"half body": fmt.Sprintf("POST /kbs/v0/auth HTTP/1.1\r\nHost: %s\r\nContent-Length: 100\r\n\r\n{", b.addr),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := &tls.Dialer{Config: &tls.Config{RootCAs: pool}}
			conn := must[net.Conn](t)(d.DialContext(t.Context(), "tcp", b.addr))
			defer func() { _ = conn.Close() }()
			if _, err := io.WriteString(conn, text); err != nil {
				return // a busy machine was slower than the server's patience
			}
			if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("the connection is still open")
			}
		})
	}
}

func TestIdleStrangersDoNotKeepGuestsOut(t *testing.T) {
	t.Parallel()
	b := start(t, func(c *server.Config) { c.MaxConns, c.ReadTimeout = 2, 300*time.Millisecond })
	for range 4 {
		conn := must[net.Conn](t)((&net.Dialer{}).DialContext(t.Context(), "tcp", b.addr))
		defer func() { _ = conn.Close() }()
	}
	if a := b.guest(t).auth(t, "0.4.0", "sample"); a.status != http.StatusOK {
		t.Fatalf("auth: %d %s", a.status, a.body)
	}
}

func TestPlainHTTPIsNotServed(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	g := b.guest(t)
	req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+b.addr+"/healthz", nil))
	res, err := g.http.Do(req)
	if err == nil {
		defer func() { _ = res.Body.Close() }()
		if res.StatusCode == http.StatusOK {
			t.Fatal("answered without TLS")
		}
	}
	if a := g.send(t, request{method: http.MethodGet, path: "/healthz"}); a.status != http.StatusOK {
		t.Fatalf("health over TLS: %d", a.status)
	}
}

func TestAClientOfAnotherCAHangsUp(t *testing.T) {
	t.Parallel()
	b, other := start(t, nil), start(t, nil)
	g := other.guest(t)
	req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/healthz", nil))
	res, err := g.http.Do(req)
	if err == nil {
		_ = res.Body.Close()
		t.Fatal("a certificate of another CA was accepted")
	}
}
