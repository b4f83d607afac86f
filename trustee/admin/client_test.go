// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// peer serves h by TLS and returns a client that trusts it.
func peer(t testing.TB, h http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	_, priv := keys(t)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	c, err := NewClient(ClientConfig{URL: srv.URL + "/", CA: ca, Key: priv})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestAnAnswerThatIsNoSuccessIsAnError(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status int
		body   string
		text   string
	}{
		"problem":         {401, `{"type":"x/AdminAuthAccess","detail":"no\nentry"}`, "no entry (status 401)"},
		"no JSON":         {500, "<html>", "status 500"},
		"empty":           {403, "", "status 403"},
		"JSON of a list":  {400, "[]", "status 400"},
		"created":         {201, "{}", "status 201"},
		"no content":      {204, "", "status 204"},
		"missing":         {404, `{"detail":"gone"}`, "not found: gone"},
		"list of another": {200, `{"a":1}`, "parse answer"},
		"no list":         {200, ``, "parse answer"},
		"too much":        {200, strings.Repeat(" ", maxAnswer+1), "larger than allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := peer(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			})
			names, err := c.Resources(t.Context())
			if err == nil || !strings.Contains(err.Error(), tc.text) || errors.Is(err, ErrNotFound) != (tc.status == 404) {
				t.Fatalf("%v, error %v, want %q", names, err, tc.text)
			}
		})
	}
}

func TestARedirectGetsNoToken(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(other.Close)
	c := peer(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
	})
	if err := c.SetResource(t.Context(), "a/b/c", []byte("secret")); err == nil || !strings.Contains(err.Error(), "status 307") {
		t.Errorf("error %v", err)
	}
	if asked.Load() != 0 {
		t.Error("the other server was asked")
	}
}

func TestNamesStayOnePartOfThePath(t *testing.T) {
	t.Parallel()
	var got atomic.Value
	c := peer(t, func(_ http.ResponseWriter, r *http.Request) { got.Store(r.Method + " " + r.URL.EscapedPath()) })
	if err := c.DeleteReferenceValue(t.Context(), "a/../b?c#d"); err != nil {
		t.Fatal(err)
	}
	if want := "DELETE /kbs/v0/admin/reference-value/a%2F..%2Fb%3Fc%23d"; got.Load() != want {
		t.Errorf("sent %v, want %s", got.Load(), want)
	}
	if _, err := c.AttestationPolicy(t.Context(), "../resource"); err != nil {
		t.Fatal(err)
	}
	if want := "GET /kbs/v0/admin/attestation-policy/..%2Fresource"; got.Load() != want {
		t.Errorf("sent %v, want %s", got.Load(), want)
	}
}
