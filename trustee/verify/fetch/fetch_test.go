// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package fetch

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/time/rate"

	"cocoon/internal/bounded"
)

func TestAnAnswerIsBoundedAndItsFailuresAreToldApart(t *testing.T) {
	t.Parallel()
	const limit = 8
	for name, tc := range map[string]struct {
		code int
		body string
		want error // nil: any, unless the code is 200
	}{
		"good": {200, "12345678", nil}, "too long": {200, "123456789", bounded.ErrTooLarge}, "absent": {404, "", ErrNotFound},
		"busy": {429, "", ErrLater}, "broken": {503, "", ErrLater}, "refused": {403, "", nil},
	} {
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Chain", "c")
			w.WriteHeader(tc.code)
			w.Write([]byte(tc.body)) //nolint:errcheck // the client may hang up
		}))
		b, header, err := Get(t.Context(), server.Client(), server.URL, limit)
		server.Close()
		switch {
		case name == "good":
			if err != nil || string(b) != tc.body || header.Get("X-Chain") != "c" {
				t.Errorf("%s: %q, %v", name, b, err)
			}
		case err == nil, tc.want != nil && !errors.Is(err, tc.want), tc.want == nil && errors.Is(err, ErrLater):
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if _, _, err := Get(t.Context(), http.DefaultClient, "https://127.0.0.1:1", limit); !errors.Is(err, ErrLater) {
		t.Errorf("unreachable: %v", err)
	}
	if _, _, err := Get(t.Context(), http.DefaultClient, ":", limit); err == nil {
		t.Error("an address that is none was asked")
	}
}

func TestAServiceIsAskedOnlySoOften(t *testing.T) {
	t.Parallel()
	asked := 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer server.Close()
	client := server.Client()
	client.Transport = Limited{Base: client.Transport, Limit: rate.NewLimiter(0, 2)}
	for i := range 4 {
		_, _, err := Get(t.Context(), client, server.URL, 1)
		if i < 2 && err != nil || i >= 2 && !errors.Is(err, ErrBusy) {
			t.Errorf("question %d: %v", i, err)
		}
	}
	resp, err := client.Post(server.URL, "text/plain", strings.NewReader("x")) //nolint:noctx // it is not sent
	if !errors.Is(err, ErrBusy) {
		t.Errorf("one with a body: %v, %v", resp, err)
	}
	if asked != 2 {
		t.Errorf("asked %d times", asked)
	}
}
