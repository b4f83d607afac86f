// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"context"
	"crypto/sha512"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/internal/stage"
)

func TestASecretIsFetchedAndDecryptedWithEveryKeyKind(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{"", KeyP256, KeyP521, KeyRSA} {
		t.Run("key "+alg, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t)
			cfg := b.config()
			cfg.TEEKeyAlgorithm = alg
			c := newClient(t, cfg, &prover{})
			got, err := c.Resource(t.Context(), "resource", "/default/key/1", "")
			if err != nil || string(got) != "hello" {
				t.Fatalf("got %q, %v", got, err)
			}
		})
	}
}

func TestAPluginGetsItsPathAndQuery(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	var query string
	b.override("pkcs11", func(w http.ResponseWriter, r *http.Request) {
		query = r.URL.RawQuery
		b.mu.Lock()
		b.secrets["pkcs11/wrap"] = "from the plugin"
		b.mu.Unlock()
		b.resource(w, r, "pkcs11/wrap")
	})
	got, err := newClient(t, b.config(), &prover{}).Resource(t.Context(), "pkcs11", "wrap", "id=1&x=%2F")
	if err != nil || string(got) != "from the plugin" || query != "id=1&x=%2F" {
		t.Fatalf("got %q, query %q, error %v", got, query, err)
	}
}

func TestInitDataReachesTheBrokerByteForByte(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	cfg := b.config()
	cfg.InitData = []byte("version = \"0.1.0\"\n[data]\n\"x\" = '''<a & b>\u2028\t'''\n")
	if _, err := newClient(t, cfg, &prover{}).Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b.initData != string(cfg.InitData) {
		t.Errorf("broker got %q, want %q", b.initData, cfg.InitData)
	}
	b.initData = "none came"
	cfg.InitData = []byte{}
	if _, err := newClient(t, cfg, &prover{}).Token(t.Context()); err != nil || b.initData != "none came" {
		t.Errorf("without initdata the broker got %q, %v", b.initData, err)
	}
}

func TestDeviceEvidenceIsBoundIntoThePrimaryEvidence(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	ev := &deviceProver{text: `{"sampledevice":{"svn":"2","note":"<&>\u2028"}}`}
	if _, err := newClient(t, b.config(), ev).Token(t.Context()); err != nil {
		t.Fatal(err) // the broker checks the digest
	}
	if len(ev.got) != sha512.Size384 {
		t.Errorf("device was given %d bytes, want a SHA-384 digest", len(ev.got))
	}
	ev.text = "not JSON"
	_, err := newClient(t, b.config(), ev).Token(t.Context())
	if stage.Of(err) != stage.Evidence {
		t.Errorf("device text that is not JSON: error %v, want stage evidence", err)
	}
}

func TestTheTokenComesWithItsKeyAndIsNotPrinted(t *testing.T) {
	t.Parallel()
	for alg, kind := range map[string]string{KeyP521: "PRIVATE KEY", KeyRSA: "RSA PRIVATE KEY"} {
		b := newBroker(t)
		cfg := b.config()
		cfg.TEEKeyAlgorithm = alg
		tok, err := newClient(t, cfg, &prover{}).Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(tok.KeyPEM)
		if block == nil || block.Type != kind {
			t.Fatalf("%s: key is %v, want a PEM %s", alg, block, kind)
		}
		if kind == "PRIVATE KEY" {
			_, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		} else {
			_, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		}
		if err != nil {
			t.Errorf("%s: key does not parse: %v", alg, err)
		}
		text := fmt.Sprintf("%v %+v %#v %s", tok, tok, tok, tok.LogValue())
		if strings.Contains(text, tok.JWT) || strings.Contains(text, "PRIVATE") {
			t.Errorf("%s: token prints its content", alg)
		}
	}
}

func TestOneAttestationServesUntilShortlyBeforeExpiry(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	now := time.Now()
	clock := func() time.Time { return now }
	b.now = clock
	cfg := b.config()
	cfg.Now = clock
	c := newClient(t, cfg, &prover{})
	for _, step := range []struct {
		forward time.Duration
		attests int
	}{
		{0, 1}, {0, 1}, {b.life - expiryMargin - 2*time.Second, 1}, {2 * time.Second, 2}, {time.Second, 2},
	} {
		now = now.Add(step.forward)
		if _, err := c.Resource(t.Context(), "", "default/key/1", ""); err != nil {
			t.Fatal(err)
		}
		if got := b.count("attest"); got != step.attests {
			t.Fatalf("after %v: %d attestations, want %d", step.forward, got, step.attests)
		}
	}
}

func TestATokenOfShortLifeServesForHalfOfIt(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.life = time.Minute
	now := time.Now().Truncate(time.Second)
	b.now = func() time.Time { return now }
	cfg := b.config()
	cfg.Now = b.now
	c := newClient(t, cfg, &prover{})
	for _, step := range []struct {
		forward time.Duration
		attests int
	}{{0, 1}, {29 * time.Second, 1}, {time.Second, 2}, {0, 2}} {
		now = now.Add(step.forward)
		if _, err := c.Token(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := b.count("attest"); got != step.attests {
			t.Fatalf("after %v: %d attestations, want %d", step.forward, got, step.attests)
		}
	}
}

func TestATokenTooLargeForAHeaderIsReplacedByItsSession(t *testing.T) {
	t.Parallel()
	for name, renewed := range map[string]string{"as opened": "", "named anew": "another"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t)
			var key json.RawMessage
			want := renewed
			b.override("attest", func(w http.ResponseWriter, r *http.Request) {
				var why string
				if cookie, err := r.Cookie(sessionCookie); err == nil && renewed == "" {
					want = cookie.Value
				}
				if key, why = b.verify(r); why != "" {
					problem(w, 401, "AttestationError", why)
					return
				}
				if renewed != "" {
					http.SetCookie(w, &http.Cookie{Name: sessionCookie, Value: renewed})
				}
				answerJSON(w, map[string]string{"token": b.token(map[string]any{"exp": time.Now().Add(time.Hour).Unix(), "x": strings.Repeat("x", maxBearer)}, nil)})
			})
			b.override("resource", func(w http.ResponseWriter, r *http.Request) {
				cookie, err := r.Cookie(sessionCookie)
				if err != nil || cookie.Value != want || r.Header.Get("Authorization") != "" {
					problem(w, 401, "TokenNotFound", "no session")
					return
				}
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write([]byte(seal(key, "hello", nil)))
			})
			got, err := newClient(t, b.config(), &prover{}).Resource(t.Context(), "", "default/key/1", "")
			if err != nil || string(got) != "hello" {
				t.Fatalf("got %q, %v", got, err)
			}
		})
	}
}

func TestConcurrentCallersShareOneAttestation(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	ev := &prover{gate: make(chan struct{})}
	c := newClient(t, b.config(), ev)
	const callers = 16
	var wg sync.WaitGroup
	errs := make(chan error, callers)
	for range callers {
		wg.Go(func() {
			_, err := c.Resource(context.WithoutCancel(t.Context()), "resource", "default/key/1", "")
			errs <- err
		})
	}
	waitForWaiters(t, c, callers)
	close(ev.gate)
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	if n := b.count("attest"); n != 1 || ev.calls != 1 {
		t.Errorf("%d attestations and %d evidences for %d callers, want 1 and 1", n, ev.calls, callers)
	}
}

func TestACallerWhoGivesUpDoesNotEndTheAttestationOfOthers(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	ev := &prover{gate: make(chan struct{})}
	c := newClient(t, b.config(), ev)
	first, cancel := context.WithCancel(t.Context())
	gone, stayed := make(chan error, 1), make(chan error, 1)
	go func() { _, err := c.Token(first); gone <- err }()
	waitForWaiters(t, c, 1)
	go func() { _, err := c.Token(context.WithoutCancel(first)); stayed <- err }()
	waitForWaiters(t, c, 2)
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the caller who gave up got %v", err)
	}
	close(ev.gate)
	if err := <-stayed; err != nil {
		t.Errorf("the caller who stayed got %v", err)
	}
}

func TestAnAttestationThatNobodyWaitsForIsCancelledAndNotJoined(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	ev := &prover{gate: make(chan struct{})}
	c := newClient(t, b.config(), ev)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { _, err := c.Token(ctx); gone <- err }()
	waitForWaiters(t, c, 1)
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	close(ev.gate)
	if _, err := c.Token(t.Context()); err != nil {
		t.Errorf("the next caller got %v", err)
	}
}

func TestCloseEndsARunningAttestation(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	c := newClient(t, b.config(), &prover{gate: make(chan struct{})})
	done := make(chan error, 1)
	go func() { _, err := c.Token(t.Context()); done <- err }()
	waitForWaiters(t, c, 1)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("the waiting caller got a token")
	}
	if _, err := c.Token(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v, want ErrClosed", err)
	}
}

// waitForWaiters returns when n callers wait for the running attestation.
func waitForWaiters(t *testing.T, c *Client, n int) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 10_000 {
		c.cache.mu.Lock()
		f := c.cache.flight
		ok := f != nil && f.waiters == n
		c.cache.mu.Unlock()
		if ok {
			return
		}
		<-tick.C
	}
	t.Fatalf("%d callers never waited", n)
}

func TestATokenThatTheBrokerForgotIsReplacedOnce(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	c := newClient(t, b.config(), &prover{})
	for range 2 {
		if _, err := c.Resource(t.Context(), "resource", "default/key/1", ""); err != nil {
			t.Fatal(err)
		}
		b.forget()
	}
	if n := b.count("attest"); n != 2 {
		t.Errorf("%d attestations, want 2", n)
	}
}

func TestADenialBlamesAnOldTokenButNotAYoungOne(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		deny  http.HandlerFunc // nil for the broker's own answer to a missing secret
		stage stage.Stage
		fresh int // attestations made for an old token
	}{
		"missing":       {nil, stage.NotFound, 2},
		"policy by 401": {refuse(401, "PolicyDeny", ""), stage.ResourcePolicy, 2},
		"policy by 403": {refuse(403, "PolicyDeny", ""), stage.ResourcePolicy, 2},
		"404":           {refuse(404, "PluginInternalError", ""), stage.NotFound, 1},
		"bare 403":      {status(403, ""), stage.ResourcePolicy, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t)
			b.override("resource", tc.deny)
			now := time.Now()
			cfg := b.config()
			cfg.Now = func() time.Time { return now }
			c := newClient(t, cfg, &prover{})
			for _, step := range []struct {
				forward time.Duration
				attests int
			}{{0, 1}, {youngToken, 1}, {time.Second, tc.fresh}, {time.Second, tc.fresh}} {
				now = now.Add(step.forward)
				_, err := c.Resource(t.Context(), "resource", "default/key/none", "")
				if stage.Of(err) != tc.stage {
					t.Fatalf("error %v, want stage %s", err, tc.stage)
				}
				if n := b.count("attest"); n != step.attests {
					t.Errorf("after %v: %d attestations, want %d", step.forward, n, step.attests)
				}
			}
		})
	}
}

func BenchmarkAttestation(b *testing.B) {
	broker := newBroker(b)
	c := newClient(b, broker.config(), &prover{})
	var last *session
	for b.Loop() {
		s, err := c.session(b.Context(), last)
		if err != nil {
			b.Fatal(err)
		}
		last = s
	}
}

func BenchmarkCachedResource(b *testing.B) {
	broker := newBroker(b)
	c := newClient(b, broker.config(), &prover{})
	for b.Loop() {
		if _, err := c.Resource(b.Context(), "resource", "default/key/1", ""); err != nil {
			b.Fatal(err)
		}
	}
}
