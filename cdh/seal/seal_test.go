// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"cocoon/cdh/seal"
)

// A secret signed by another implementation of ECDSA.
const (
	fixedKey    = `{"kty":"EC","crv":"P-256","x":"ntuc0BZHgZwYXZT121j2VwseZqRXmoTfOetbhkMr2-I","y":"c1yqy2vdrCOcGkg0BBgSlvnf3L8aki6MGAhBh9pplPo"}`
	fixedSecret = "sealed.eyJhbGciOiJFUzI1NiIsImtpZCI6ImticzovLy9kZWZhdWx0L3NpZ25pbmcta2V5L3NlYWxlZC1zZWNyZXQifQ.eyJ2ZXJzaW9uIjoiMC4xLjAiLCJ0eXBlIjoidmF1bHQiLCJuYW1lIjoia2JzOi8vL29uZS8yL3Ryb2lzIiwicHJvdmlkZXIiOiJrYnMiLCJwcm92aWRlcl9zZXR0aW5ncyI6e30sImFubm90YXRpb25zIjp7fX0.Dg0CDfbAj3uUf2TdFk96Q0qv-nKJBLl7V6rOIGkXG2bBuOg_T_443clNvQesEfAf8iker9jTAehq3EU_ewk5dQ"
)

func TestASecretOfAnotherImplementationVerifies(t *testing.T) {
	t.Parallel()
	key, err := seal.ParseKey([]byte(fixedKey))
	if err != nil {
		t.Fatal(err)
	}
	s, err := seal.Split([]byte(fixedSecret))
	if err != nil {
		t.Fatal(err)
	}
	h, err := s.Header()
	if err != nil || h.KeyID != "kbs:///default/signing-key/sealed-secret" {
		t.Errorf("header %+v, %v", h, err)
	}
	if err := s.Verify(key); err != nil {
		t.Error(err)
	}
	p, err := s.Payload()
	if err != nil || p.Name != "kbs:///one/2/trois" || p.Type != "vault" || p.Provider != "kbs" {
		t.Errorf("payload %+v, %v", p, err)
	}
	// Every single character of the signed part and of the signature counts.
	for i := len(seal.Prefix); i < len(fixedSecret); i++ {
		b := []byte(fixedSecret)
		if b[i] == 'A' {
			b[i] = 'B'
		} else {
			b[i] = 'A'
		}
		if s, err := seal.Split(b); err == nil && s.Verify(key) == nil {
			t.Fatalf("character %d does not count", i)
		}
	}
}

func TestKeysThatAreNotOnTheCurveAreRefused(t *testing.T) {
	t.Parallel()
	zero := base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	for _, jwk := range []string{
		"", "{}", "[]", strings.Replace(fixedKey, "EC", "RSA", 1), strings.Replace(fixedKey, "P-256", "P-384", 1),
		`{"kty":"EC","crv":"P-256","x":"` + zero + `","y":"` + zero + `"}`,
		`{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}`, `{"kty":"EC","crv":"P-256","x":1}`,
		strings.Replace(fixedKey, `","y"`, `=","y"`, 1), strings.Repeat(" ", 17<<10),
	} {
		if k, err := seal.ParseKey([]byte(jwk)); !errors.Is(err, seal.ErrKey) {
			t.Errorf("%.60s: got %v, %v", jwk, k, err)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add([]byte(fixedKey))
	f.Fuzz(func(t *testing.T, jwk []byte) {
		if k, err := seal.ParseKey(jwk); err == nil && k == nil {
			t.Fatal("neither key nor error")
		}
	})
}
