// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"
)

func fixed() time.Time { return time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC) }

func keys(t testing.TB) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pub, priv
}

func TestATokenIsValidForItsLifeAndKey(t *testing.T) {
	t.Parallel()
	pub, priv := keys(t)
	other, _ := keys(t)
	token, err := NewToken(priv, fixed(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for after, good := range map[time.Duration]bool{0: true, -leeway: true, time.Hour: true, time.Hour + leeway: false, -2 * leeway: false} {
		if err := Verify(pub, token, fixed().Add(after)); good != (err == nil) || err != nil && !errors.Is(err, ErrDenied) {
			t.Errorf("after %s: error %v", after, err)
		}
	}
	for name, bad := range map[string]string{
		"cut": token[:len(token)-2], "empty": "", "long": strings.Repeat("a", maxToken+1), "other alg": "eyJhbGciOiJIUzI1NiJ9" + token[strings.IndexByte(token, '.'):],
	} {
		if err := Verify(pub, bad, fixed()); !errors.Is(err, ErrDenied) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if err := Verify(other, token, fixed()); !errors.Is(err, ErrDenied) {
		t.Errorf("another key: error %v", err)
	}
}

func TestFilesThatAreNoAdminKeysAreRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if _, err := ParsePrivateKey([]byte(text)); err == nil {
			t.Errorf("private %q was accepted", text)
		}
		if _, err := ParsePublicKey([]byte(text)); err == nil {
			t.Errorf("public %q was accepted", text)
		}
	}
}

func TestAClientInsistsOnTLSAndACA(t *testing.T) {
	t.Parallel()
	_, priv := keys(t)
	for _, cfg := range []ClientConfig{
		{URL: "http://127.0.0.1:1", CA: []byte("x"), Key: priv}, {URL: "https://", Key: priv}, {URL: "127.0.0.1:8080", Key: priv},
		{URL: "https://127.0.0.1:1", Key: priv}, {URL: "https://127.0.0.1:1", CA: []byte("no PEM"), Key: priv},
	} {
		if _, err := NewClient(cfg); err == nil {
			t.Errorf("%q with CA %q was accepted", cfg.URL, cfg.CA)
		}
	}
}

func FuzzVerify(f *testing.F) {
	pub, priv := keys(f)
	token, err := NewToken(priv, fixed(), time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("..")
	part := strings.Split(token, ".")
	f.Fuzz(func(t *testing.T, text string) {
		err := Verify(pub, text, fixed())
		if err != nil && !errors.Is(err, ErrDenied) {
			t.Fatalf("error %v is not ErrDenied", err)
		}
		if err == nil && strings.Split(text, ".")[1] != part[1] {
			t.Fatalf("forged: %q", text)
		}
	})
}
