// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package azvtpm_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"cocoon/attest/tee/azvtpm"
)

func TestTheMetadataServiceIsAskedAsAzureWantsIt(t *testing.T) {
	t.Parallel()
	serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Metadata") != "true" {
			t.Error("no header Metadata")
		}
		var answer any
		switch r.Method + " " + r.URL.Path {
		case "GET /metadata/THIM/amd/certification":
			answer = map[string]string{"vcekCert": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("der")})), "certificateChain": "x", "tcbm": "DB1"}
		case "POST /acc/tdquote":
			body, err := io.ReadAll(r.Body)
			if err != nil || string(body) != `{"report":"-_8"}` || r.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s (%v)", body, err)
			}
			answer = map[string]string{"quote": base64.RawURLEncoding.EncodeToString([]byte("quote"))}
		default:
			t.Errorf("%s %s", r.Method, r.URL)
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}), func(t *testing.T, m *azvtpm.Metadata) {
		if b, err := m.VCEK(t.Context()); err != nil || string(b) != "der" {
			t.Errorf("%q, %v", b, err)
		}
		if b, err := m.TDQuote(t.Context(), []byte{0xfb, 0xff}); err != nil || string(b) != "quote" {
			t.Errorf("%q, %v", b, err)
		}
	})
}

// serve has f ask a metadata service, in a bubble whose time passes by itself
// while nobody does anything.
func serve(t *testing.T, h http.Handler, f func(*testing.T, *azvtpm.Metadata)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		pipes := newPipes()
		server := &http.Server{Handler: h}
		done := make(chan error, 1)
		go func() { done <- server.Serve(pipes) }()
		f(t, azvtpm.NewMetadata("http://metadata", &http.Transport{
			DisableKeepAlives: true,
			DialContext:       func(context.Context, string, string) (net.Conn, error) { return pipes.dial() },
		}))
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

func TestAMetadataServiceThatRecoversIsAskedAgain(t *testing.T) {
	t.Parallel()
	asked := 0
	serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked < 3 {
			w.WriteHeader([]int{http.StatusTooManyRequests, http.StatusServiceUnavailable}[asked-1])
			return
		}
		io.WriteString(w, `{"quote":"cQ"}`) //nolint:errcheck // the client notices
	}), func(t *testing.T, m *azvtpm.Metadata) {
		if b, err := m.TDQuote(t.Context(), nil); err != nil || string(b) != "q" {
			t.Errorf("%q, %v", b, err)
		}
	})
}

func TestAnOddAnswerOfTheMetadataServiceIsRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status int
		body   string
		tries  int
		want   string
	}{
		"forbidden":      {403, "", 1, "403 Forbidden"},
		"not found":      {404, "", 1, "404"},
		"redirect":       {302, "", 1, "302"},
		"always busy":    {429, "", 4, "429"},
		"broken":         {500, "", 4, "500"},
		"no JSON":        {200, "<html>", 1, "parse the answer"},
		"no certificate": {200, `{"vcekCert":"x"}`, 1, "no certificate"},
		"a key":          {200, `{"vcekCert":"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"}`, 1, "no certificate"},
		"too large":      {200, strings.Repeat(" ", 1<<19), 4, "read the answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := 0
			serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				asked++
				w.Header().Set("Location", "http://elsewhere/")
				w.WriteHeader(tc.status)
				io.WriteString(w, tc.body) //nolint:errcheck // the client may be gone
			}), func(t *testing.T, m *azvtpm.Metadata) {
				if b, err := m.VCEK(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("%q, %v; want %q", b, err, tc.want)
				}
			})
			if asked != tc.tries {
				t.Errorf("asked %d times, want %d", asked, tc.tries)
			}
		})
	}
}

// pipes is a network in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipes() pipes { return pipes{make(chan net.Conn), make(chan struct{})} }

func (p pipes) dial() (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case p.conns <- a:
		return b, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error   { close(p.closed); return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }
