// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"cocoon/internal/bounded"
	"cocoon/internal/stage"
)

// failsWithin requires what refusal does.
func failsWithin(t *testing.T, c *Client, want stage.Stage, text string) {
	t.Helper()
	if err := refusal(t, c, want, text); err == nil {
		t.Fatal("no refusal")
	}
}

// refusal calls Resource and requires an error of stage want that contains
// text, well within the test's deadline. It returns that error.
func refusal(t *testing.T, c *Client, want stage.Stage, text string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got, err := c.Resource(ctx, "resource", "default/key/1", "")
	if ctx.Err() != nil {
		t.Fatalf("not refused within the deadline: %v", err)
	}
	if err == nil || got != nil {
		t.Fatalf("got %q and error %v, want a refusal", got, err)
	}
	if stage.Of(err) != want || !strings.Contains(err.Error(), text) {
		t.Fatalf("error %q has stage %q, want %q and text %q", err, stage.Of(err), want, text)
	}
	if strings.ContainsAny(err.Error(), "\n\r\x1b") || len(err.Error()) > 2000 {
		t.Errorf("error text is not one bounded line: %q", err)
	}
	return err
}

func status(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		fmt.Fprint(w, body)
	}
}

func ok(contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		fmt.Fprint(w, body)
	}
}

func refuse(code int, name, detail string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { problem(w, code, name, detail) }
}

// reset drops the connection with a TCP reset.
func reset(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	if tc, ok := conn.(*tls.Conn).NetConn().(*net.TCPConn); ok {
		_ = tc.SetLinger(0)
		_ = tc.Close()
	}
}

// stall sends half an answer and then nothing.
func stall(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, `{"nonce":`)
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

func TestAnAnswerOutOfProtocolIsRefusedAtItsStage(t *testing.T) {
	t.Parallel()
	const jsonType = "application/json"
	huge := `{"nonce":"` + strings.Repeat("A", maxAnswer) + `"}`
	for name, tc := range map[string]struct {
		step    string
		handler http.HandlerFunc
		stage   stage.Stage
		text    string
		auths   int // requests to the first step, retries included
	}{
		"challenge is a web page":     {"auth", ok("text/html", "<html>"), stage.KBS, "content type", 1},
		"challenge is garbage":        {"auth", ok(jsonType, "{\"nonce\":"), stage.KBS, "challenge", 1},
		"challenge without nonce":     {"auth", ok(jsonType, `{"extra-params":""}`), stage.KBS, "no nonce", 1},
		"challenge with unknown hash": {"auth", ok(jsonType, `{"nonce":"a","extra-params":{"selected-hash-algorithm":"md5"}}`), stage.KBS, "md5", 1},
		"challenge without cookie":    {"auth", ok(jsonType, `{"nonce":"a","extra-params":""}`), stage.KBS, "kbs-session-id", 1},
		"challenge too large":         {"auth", ok(jsonType, huge), stage.KBS, bounded.ErrTooLarge.Error(), 1},
		"version refused":             {"auth", refuse(401, "AttestationError", "expect =0.5.0"), stage.AttestDenied, "expect =0.5.0", 1},
		"auth overloaded for good":    {"auth", status(503, "busy"), stage.KBS, "503: busy", maxAttempts},
		"auth reset for good":         {"auth", reset, stage.KBS, "gave up", maxAttempts},
		"redirect to http":            {"auth", redirectTo("http://127.0.0.1:1/kbs/v0/auth"), stage.KBS, "redirect", 1},
		"redirect to https":           {"auth", redirectTo("https://127.0.0.1:1/kbs/v0/auth"), stage.KBS, "not followed", 1},

		"evidence refused":        {"attest", refuse(401, "AttestationError", "measurement differs"), stage.AttestDenied, "AttestationError: measurement differs", 1},
		"evidence forbidden":      {"attest", status(403, ""), stage.AttestDenied, "403", 1},
		"evidence too large":      {"attest", status(413, "payload reached size limit"), stage.KBS, "payload reached size limit", 1},
		"detail with terminal":    {"attest", refuse(401, "AttestationError", "a\x1b[2Jb\nc"), stage.AttestDenied, "a?[2Jb c", 1},
		"detail without end":      {"attest", status(401, strings.Repeat("x", 1<<20)), stage.AttestDenied, "xxx...", 1},
		"token answer is garbage": {"attest", ok(jsonType, "null"), stage.KBS, "no token", 1},
		"token is text":           {"attest", ok("text/plain", `{"token":"a.b.c"}`), stage.KBS, "content type", 1},
		"token is not a JWT":      {"attest", ok(jsonType, `{"token":"abc"}`), stage.KBS, "not a signed JWT", 1},
		"attest redirect":         {"attest", redirectTo("http://127.0.0.1:1/"), stage.KBS, "redirect", 1},

		"resource missing":          {"resource", refuse(404, "PluginNotFound", "no such secret"), stage.NotFound, "no such secret", 1},
		"resource missing by 401":   {"resource", refuse(401, "PluginInternalError", "storage"), stage.NotFound, "storage", 1},
		"resource policy says no":   {"resource", refuse(401, "PolicyDeny", "not affirming"), stage.ResourcePolicy, "not affirming", 1},
		"resource forbidden":        {"resource", status(403, "no"), stage.ResourcePolicy, "403: no", 1},
		"401 without end":           {"resource", refuse(401, "TokenVerifierError", "unknown key"), stage.Unauthorized, "unknown key", 2},
		"resource in the clear":     {"resource", ok(jsonType, `"hello"`), stage.Decrypt, "not a flattened JWE", 1},
		"resource raw":              {"resource", ok("text/xml", "hello"), stage.KBS, "content type", 1},
		"resource redirect":         {"resource", redirectTo("http://127.0.0.1:1/"), stage.KBS, "redirect", 1},
		"resource failed for good":  {"resource", status(500, "disk"), stage.KBS, "gave up after 8 attempts", 1},
		"resource for somebody":     {"resource", ok(jsonType, seal(ecTEE(t).publicJSON(), "x", nil)), stage.Decrypt, "not encrypted to this guest's key", 1},
		"no content is no resource": {"resource", status(204, ""), stage.KBS, "204", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t)
			b.override(tc.step, tc.handler)
			failsWithin(t, newClient(t, b.config(), &prover{}), tc.stage, tc.text)
			// Of many attempts one may end before it reaches the broker: on a busy
			// machine a kept connection is closed just when it is used again.
			n := b.count("auth")
			if few := tc.auths == maxAttempts && n == maxAttempts-1; n != tc.auths && !few {
				t.Errorf("%d handshakes begun, want %d", n, tc.auths)
			}
		})
	}
}

func redirectTo(url string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, url, http.StatusTemporaryRedirect) }
}

func TestATokenThatCannotBeRightIsRefused(t *testing.T) {
	t.Parallel()
	at := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	for name, tc := range map[string]struct {
		claims, header map[string]any
		text           string
	}{
		"no signature": {map[string]any{"exp": at(time.Hour)}, map[string]any{"alg": "none"}, `"none"`},
		"shared key":   {map[string]any{"exp": at(time.Hour)}, map[string]any{"alg": "HS256"}, `"HS256"`},
		"expired":      {map[string]any{"exp": at(-time.Hour)}, nil, "the guest's clock says"},
		"not yet":      {map[string]any{"exp": at(time.Hour), "nbf": at(time.Hour / 2)}, nil, "valid from"},
		"no expiry":    {map[string]any{"sub": "x"}, nil, "no expiry"},
		"odd expiry":   {map[string]any{"exp": "soon"}, nil, "payload"},
		"far expiry":   {map[string]any{"exp": 1e300}, nil, "no time"},
		"huge":         {map[string]any{"exp": at(time.Hour), "x": strings.Repeat("x", maxToken/4*3)}, nil, "are taken"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t)
			b.override("attest", func(w http.ResponseWriter, _ *http.Request) {
				answerJSON(w, map[string]string{"token": b.token(tc.claims, tc.header)})
			})
			failsWithin(t, newClient(t, b.config(), &prover{}), stage.KBS, tc.text)
			if n := b.count("resource"); n != 0 {
				t.Errorf("the token was used %d times", n)
			}
		})
	}
}

func TestAReplayedNonceIsRefused(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.override("auth", func(w http.ResponseWriter, _ *http.Request) { b.challenge(w, "c2FtZQ==", "") })
	ev := &prover{}
	c := newClient(t, b.config(), ev)
	if _, err := c.Resource(t.Context(), "resource", "default/key/1", ""); err != nil {
		t.Fatal(err)
	}
	b.forget()
	if err := refusal(t, c, stage.KBS, "used before"); !errors.Is(err, errReplayed) {
		t.Errorf("error %v, want errReplayed", err)
	}
	if ev.calls != 1 {
		t.Errorf("evidence was made %d times, want once", ev.calls)
	}
}

func TestAPassingFailureIsRetried(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]http.HandlerFunc{"503": status(503, "starting"), "429": status(429, ""), "reset": reset} {
		for _, step := range []string{"auth", "attest", "resource"} {
			t.Run(name+" at "+step, func(t *testing.T) {
				t.Parallel()
				b := newBroker(t)
				var n atomic.Int32
				b.override(step, func(w http.ResponseWriter, r *http.Request) {
					if n.Add(1) <= 2 {
						broken(w, r)
						return
					}
					map[string]http.HandlerFunc{"auth": b.auth, "attest": b.attest, "resource": func(w http.ResponseWriter, r *http.Request) {
						b.resource(w, r, "resource/default/key/1")
					}}[step](w, r)
				})
				got, err := newClient(t, b.config(), &prover{}).Resource(t.Context(), "resource", "default/key/1", "")
				if err != nil || string(got) != "hello" {
					t.Errorf("got %q, %v", got, err)
				}
			})
		}
	}
}

func TestASilentBrokerIsGivenUpWithinTheDeadline(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"auth", "attest", "resource"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t)
			b.override(step, stall)
			cfg := b.config()
			cfg.HTTPTimeout, cfg.Deadline = 300*time.Millisecond, time.Second
			failsWithin(t, newClient(t, cfg, &prover{}), stage.KBS, "deadline exceeded")
		})
	}
}

func TestEvidenceThatCannotBeMadeIsItsOwnStage(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	failsWithin(t, newClient(t, b.config(), &prover{err: errors.New("device busy")}), stage.Evidence, "device busy")
	failsWithin(t, newClient(t, b.config(), &prover{raw: json.RawMessage("{")}), stage.Evidence, "not JSON")
	if n := b.count("attest"); n != 0 {
		t.Errorf("%d attest requests were sent", n)
	}
}

func TestAResourceWithAHostileHeaderIsRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		opts *jose.EncrypterOptions
		text string
	}{
		"compressed": {&jose.EncrypterOptions{Compression: jose.DEFLATE}, "member zip"},
		"party info": {(&jose.EncrypterOptions{}).WithHeader("apu", "AA"), "member apu"},
		"critical":   {(&jose.EncrypterOptions{}).WithHeader("crit", []string{"x"}), "member crit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t)
			b.override("resource", func(w http.ResponseWriter, r *http.Request) {
				b.mu.Lock()
				key := b.keys[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
				b.mu.Unlock()
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprint(w, seal(key, strings.Repeat("a", 1000), tc.opts))
			})
			failsWithin(t, newClient(t, b.config(), &prover{}), stage.Decrypt, tc.text)
		})
	}
}

func TestErrorsNeverHoldTheTokenOrTheSecret(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	c := newClient(t, b.config(), &prover{})
	tok, err := c.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.override("resource", func(w http.ResponseWriter, r *http.Request) { reset(w, r) })
	err = refusal(t, c, stage.KBS, "gave up")
	signature := tok.JWT[strings.LastIndex(tok.JWT, ".")+1:]
	if strings.Contains(err.Error(), signature) || strings.Contains(err.Error(), base64.StdEncoding.EncodeToString(tok.KeyPEM)) {
		t.Error("error holds the token")
	}
}
