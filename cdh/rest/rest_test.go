// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package rest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"cocoon/cdh/rest"
	"cocoon/internal/stage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type broker struct{ hold chan struct{} }

func (b broker) GetResource(ctx context.Context, uri string) ([]byte, error) {
	switch uri {
	case "kbs:///default/key/1":
		return []byte("secret\x00\n"), nil
	case "kbs:///default/key/absent":
		return nil, stage.Errorf(stage.NotFound, "no such resource")
	case "kbs:///hold":
		b.hold <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return nil, stage.Errorf(stage.AttestDenied, "refused %q", uri)
}

type attester struct{}

func (attester) Token(_ context.Context, kind string) ([]byte, error) {
	if kind != "kbs" {
		return nil, errors.New("unknown token type")
	}
	return []byte(`{"token":"t"}`), nil
}

func (attester) Evidence(_ context.Context, data []byte) (json.RawMessage, error) {
	return append([]byte("evidence for "), data...), nil
}

func (attester) AdditionalEvidence(_ context.Context, data []byte) ([]byte, error) {
	return append([]byte("more evidence for "), data...), nil
}

// start serves on a real socket and returns the base URL and an end to it.
func start(t *testing.T, f rest.Features, b broker) (string, func() error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	cfg := rest.Config{Features: f, Version: "v1", TEE: "sample", AdditionalTEEs: []string{"nvidia"}}
	go func() { done <- rest.Serve(ctx, l, cfg, rest.Deps{Resources: b, Attester: attester{}}) }()
	stop := func() error { cancel(); return <-done }
	return "http://" + l.Addr().String(), stop
}

func request(t *testing.T, method, url string) (int, string, string) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header.Get("Content-Type"), string(body)
}

func TestEveryRequestGetsItsStatus(t *testing.T) {
	t.Parallel()
	const octets = "application/octet-stream"
	for _, tc := range []struct {
		features         rest.Features
		method, path     string
		code             int
		kind, body, text string // body exact, or text contained
	}{
		{rest.All, "GET", "/cdh/resource/default/key/1", 200, octets, "secret\x00\n", ""},
		{rest.All, "GET", "/cdh/resource/default/key/1?ignored=1", 200, octets, "secret\x00\n", ""},
		{rest.Resource, "GET", "/cdh/resource/default/key/absent", 404, "", "", "ttrpc request error: not-found"},
		{rest.Resource, "GET", "/cdh/resource/default/key/denied", 500, "", "", "ttrpc request error: attest-denied"},
		{rest.Resource, "GET", "/cdh/resource/default/key/%31", 500, "", "", "kbs:///default/key/%31"},
		{rest.Resource, "GET", "/cdh/resource/a/../../x", 500, "", "", "kbs:///a/../../x"},
		{rest.Resource, "GET", "/cdh/resource", 404, "", "URL NOT FOUND", ""},
		{rest.Resource, "GET", "/cdh/other", 404, "", "URL NOT FOUND", ""},
		{rest.Resource, "POST", "/cdh/resource/default/key/1", 405, "", "Method Not Allowed", ""},
		{rest.Attestation, "GET", "/cdh/resource/default/key/1", 404, "", "Resource Feature Not Enabled", ""},
		{rest.Resource, "GET", "/aa/token?token_type=kbs", 404, "", "Attestation Feature Not Enabled", ""},
		{rest.Resource, "GET", "/aa/evidence?runtime_data=x", 404, "", "Attestation Feature Not Enabled", ""},
		{rest.Attestation, "GET", "/aa/token?token_type=kbs", 200, octets, `{"token":"t"}`, ""},
		{rest.All, "GET", "/aa/token?token_type=x&token_type=kbs", 200, octets, `{"token":"t"}`, ""},
		{rest.All, "GET", "/aa/token?token_type=x", 500, "", "ttrpc request error: unknown token type", ""},
		{rest.All, "GET", "/aa/token", 400, "", "BAD REQUEST", ""},
		{rest.All, "GET", "/aa/token?token_type=", 400, "", "BAD REQUEST", ""},
		{rest.All, "GET", "/aa/token?%zz", 400, "", "BAD REQUEST", ""},
		{rest.All, "POST", "/aa/token?token_type=kbs", 405, "", "Method Not Allowed", ""},
		{rest.All, "GET", "/aa/evidence?runtime_data=a+b%00", 200, octets, "evidence for a b\x00", ""},
		{rest.All, "GET", "/aa/evidence?runtime_data=-_8&encoding=base64", 200, octets, "evidence for \xfb\xff", ""},
		{rest.All, "GET", "/aa/evidence?runtime_data=%2B_8%3D&encoding=base64", 400, "", "BAD REQUEST", ""},
		{rest.All, "GET", "/aa/evidence?runtime_data=x&encoding=hex", 400, "", "BAD REQUEST", ""},
		{rest.All, "GET", "/aa/additional-evidence?runtime_data=x", 200, octets, "more evidence for x", ""},
		{rest.All, "GET", "/aa/additional-evidence?encoding=base64", 400, "", "BAD REQUEST", ""},
		{rest.All, "GET", "/aa/aael", 405, "", "Method Not Allowed", ""},
		{rest.Resource, "POST", "/aa/aael", 404, "", "Attestation Feature Not Enabled", ""},
		{rest.All, "GET", "/aa/evidence", 400, "", "BAD REQUEST", ""},
		{rest.All, "GET", "/aa/unknown", 404, "", "URL NOT FOUND", ""},
		{rest.All, "GET", "/info", 200, "application/json", `{"version":"v1","tee":"sample","additional_tees":["nvidia"],"feature":"all"}`, ""},
		{rest.Resource, "GET", "/info", 200, "application/json", `{"version":"v1","feature":"resource"}`, ""},
		{rest.All, "PUT", "/info", 405, "", "Method Not Allowed", ""},
		{rest.All, "GET", "/", 404, "", "URL NOT FOUND", ""},
	} {
		t.Run(string(tc.features)+" "+tc.method+" "+tc.path, func(t *testing.T) {
			t.Parallel()
			base, stop := start(t, tc.features, broker{})
			code, kind, body := request(t, tc.method, base+tc.path)
			if code != tc.code || kind != tc.kind || (tc.text == "" && body != tc.body) || !strings.Contains(body, tc.text) {
				t.Errorf("got %d %q %q, want %d %q %q%q", code, kind, body, tc.code, tc.kind, tc.body, tc.text)
			}
			if err := stop(); err != nil {
				t.Errorf("stop: %v", err)
			}
		})
	}
}

func TestAMeasurementIsAnsweredInFixedWords(t *testing.T) {
	t.Parallel()
	const body = `{"domain":"d","operation":"o","content":"c"}`
	result := func(m rest.Measurement, err error) func(context.Context, string, string, string) (rest.Measurement, error) {
		return func(_ context.Context, d, o, c string) (rest.Measurement, error) {
			if d+o+c != "doc" {
				return 0, errors.New("other event")
			}
			return m, err
		}
	}
	for name, tc := range map[string]struct {
		extend func(context.Context, string, string, string) (rest.Measurement, error)
		body   string
		code   int
		want   string
	}{
		"measured":      {result(rest.Measured, nil), body, 200, `{"success":"true"}`},
		"not supported": {result(rest.NotSupported, nil), body, 200, `{"success":"false","message": "The platform does not support runtime measurement"}`},
		"no function":   {nil, body, 200, `{"success":"false","message": "The platform does not support runtime measurement"}`},
		"not enabled":   {result(rest.NotEnabled, nil), body, 200, `{"success":"false","message": "Attestation Agent does not enable eventlog recording"}`},
		"unknown":       {result(9, nil), body, 200, `{"success":"false","message": "Unknown runtime measurement result"}`},
		"failed":        {result(0, errors.New("broken")), body, 500, "ttrpc request error: broken"},
		"not JSON":      {result(0, nil), "{", 500, "malformed event: domain, operation and content are required"},
		"no content":    {result(0, nil), `{"domain":"d","operation":"o"}`, 500, "malformed event: domain, operation and content are required"},
		"number":        {result(0, nil), `{"domain":1,"operation":"o","content":"c"}`, 500, "malformed event: domain, operation and content are required"},
		"huge":          {result(0, nil), `{"domain":"` + strings.Repeat("x", 65<<10) + `","operation":"o","content":"c"}`, 500, "malformed event: domain, operation and content are required"},
	} {
		h := rest.NewHandler(rest.Config{Features: rest.All}, rest.Deps{Resources: broker{}, Attester: attester{}, Extend: tc.extend})
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/aa/aael", strings.NewReader(tc.body))
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tc.code || w.Body.String() != tc.want {
			t.Errorf("%s: got %d %q", name, w.Code, w.Body)
		}
	}
}

func TestAPeerOutsideOfThePodIsRefused(t *testing.T) {
	t.Parallel()
	h := rest.NewHandler(rest.Config{Features: rest.All}, rest.Deps{Resources: broker{}, Attester: attester{}})
	for _, peer := range []string{"10.0.0.1:5", "[fd00::1]:5", "", "127.0.0.1", "@"} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/cdh/resource/default/key/1", nil)
		r.RemoteAddr = peer
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusForbidden || w.Body.String() != "Forbidden" {
			t.Errorf("peer %q: got %d %q", peer, w.Code, w.Body)
		}
	}
}

func TestAListenerOutsideOfLoopbackIsRefused(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := rest.Serve(t.Context(), l, rest.Config{}, rest.Deps{}); !errors.Is(err, rest.ErrNotLoopback) {
		t.Fatalf("got %v, want %v", err, rest.ErrNotLoopback)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("the listener is still open: %v", err)
	}
}

func TestTooManyRequestsAtOnceAreTurnedAway(t *testing.T) {
	t.Parallel()
	b := broker{hold: make(chan struct{})}
	h := rest.NewHandler(rest.Config{Features: rest.All}, rest.Deps{Resources: b, Attester: attester{}})
	ctx, cancel := context.WithCancel(t.Context())
	serve := func(path string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(ctx, "GET", path, nil)
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	done := make(chan int)
	const most = 32
	for range most {
		go func() { done <- serve("/cdh/resource/hold").Code }()
		<-b.hold
	}
	if w := serve("/info"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("one request too many: got %d", w.Code)
	}
	cancel()
	for range most {
		if code := <-done; code != http.StatusInternalServerError {
			t.Errorf("a request that was given up: got %d", code)
		}
	}
	if w := serve("/info"); w.Code != http.StatusOK {
		t.Errorf("after the rush: got %d", w.Code)
	}
}

func TestAHugeHeaderIsRefused(t *testing.T) {
	t.Parallel()
	base, stop := start(t, rest.All, broker{})
	tr := &http.Transport{DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), "GET", base+"/cdh/resource/default/key/1?"+strings.Repeat("x", 64<<10), nil)
	if err != nil {
		t.Fatal(err)
	}
	// The server closes while the client still writes: the client sees the
	// status or a reset, but never the resource.
	if res, err := (&http.Client{Transport: tr}).Do(req); err == nil {
		res.Body.Close()
		if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("got %d", res.StatusCode)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func FuzzRouter(f *testing.F) {
	for _, s := range []string{"/info", "/aa/token?token_type=kbs", "/aa/evidence?runtime_data=x&encoding=base64", "/cdh/resource/a/b/c", "//x/../%2e"} {
		f.Add("GET", s)
	}
	h := rest.NewHandler(rest.Config{Features: rest.All}, rest.Deps{Resources: broker{}, Attester: attester{}})
	f.Fuzz(func(t *testing.T, method, target string) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://127.0.0.1"+target, bytes.NewReader(nil))
		if err != nil || strings.HasPrefix(r.URL.Path, "/cdh/resource/hold") {
			return
		}
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code == http.StatusOK && r.Method != http.MethodGet && r.URL.Path != "/aa/aael" {
			t.Fatalf("%s %s was answered", method, target)
		}
	})
}
