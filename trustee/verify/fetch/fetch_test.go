// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package fetch

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

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
