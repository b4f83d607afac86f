// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cocoas

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"cocoon/internal/bounded"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service answers with a status and a body.
func service(t *testing.T, status int, body string) *Client {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		want := `{"verification_requests":[{"tee":"snp","evidence":"eyJhIjoiPz8-In0"}],"policy_ids":[]}`
		if err != nil || string(b) != want || r.Method != http.MethodPost || r.URL.Path != "/as/attestation" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %s (%v)", r.Method, r.URL, b, err)
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		io.WriteString(w, body) //nolint:errcheck // the client may hang up
	}))
	t.Cleanup(s.Close)
	c, err := New(Config{URL: s.URL + "/as/", PinRoots: true, RootCertsPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const evidence = `{"a":"??>"}`

func TestATokenIsPassedOn(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"e30.e30.AA", "e30.e30.AA\n"} {
		if token, err := service(t, 200, body).Token(t.Context(), "snp", []byte(evidence)); err != nil || string(token) != "e30.e30.AA" {
			t.Errorf("%q, %v", token, err)
		}
	}
}

func TestAnAnswerThatIsNoTokenIsRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status int
		body   string
		want   error
		text   string
	}{
		"refused":   {400, "no\nevidence", ErrAnswer, `"no\nevidence"`},
		"broken":    {500, "", ErrAnswer, "500"},
		"redirect":  {307, "", ErrAnswer, "307"},
		"created":   {201, "e30.e30.AA", ErrAnswer, "201"},
		"empty":     {200, "", ErrAnswer, "1 parts"},
		"two parts": {200, "e30.e30", ErrAnswer, "2 parts"},
		"unsigned":  {200, "e30.e30.", ErrAnswer, "part 2"},
		"JSON":      {200, `{"token":"a.b.c"}`, ErrAnswer, "part 0"},
		"too long":  {200, strings.Repeat("A", maxToken+1), bounded.ErrTooLarge, ""},
	} {
		token, err := service(t, tc.status, tc.body).Token(t.Context(), "snp", []byte(evidence))
		if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %q, %v", name, token, err)
		}
	}
	c := service(t, 200, "e30.e30.AA")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Token(ctx, "snp", []byte(evidence)); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

func TestAServiceThatNobodyVouchesForIsNotAsked(t *testing.T) {
	t.Parallel()
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was asked") }))
	defer s.Close()
	s.Config.ErrorLog = nil
	c, err := New(Config{URL: s.URL, PinRoots: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Token(t.Context(), "snp", nil); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Error(err)
	}
}

func TestAConfigurationThatMakesNoSenseIsRefused(t *testing.T) {
	t.Parallel()
	for _, u := range []string{"", "x", "ftp://as", "https://", "https://user:word@as", "https://as?x=1", "https://as#x", "https://a b"} {
		if _, err := New(Config{URL: u}); err == nil || strings.Contains(err.Error(), "word") {
			t.Errorf("%q: %v", u, err)
		}
	}
	for name, roots := range map[string]string{
		"no PEM": "x", "a key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
		"no certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "too much": strings.Repeat(" ", maxRoots) + "x",
	} {
		if _, err := New(Config{URL: "https://as", RootCertsPEM: []byte(roots)}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := New(Config{URL: "http://[::1]:50004/"}); err != nil {
		t.Error(err)
	}
}
