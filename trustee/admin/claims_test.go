// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

func sign(t testing.TB, key jose.SigningKey, payload string) *jose.JSONWebSignature {
	t.Helper()
	s, err := jose.NewSigner(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := s.Sign([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return jws
}

func compact(t testing.TB, jws *jose.JSONWebSignature) string {
	t.Helper()
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestClaimsDecideWhoIsTheOperator(t *testing.T) {
	t.Parallel()
	pub, priv := keys(t)
	now := fixed().Unix()
	for payload, good := range map[string]bool{
		fmt.Sprintf(`{"exp":%d,"role":"admin"}`, now+60):                   true,
		fmt.Sprintf(`{"exp":%d}`, now+60):                                  true, // as key encrypting tools send
		fmt.Sprintf(`{"exp":%d,"iss":"me","aud":["kbs"]}`, now+60):         true,
		fmt.Sprintf(`{"exp":%d,"nbf":%d}`, now+60, now+30):                 true, // within the leeway
		fmt.Sprintf(`{"exp":%d,"role":"user"}`, now+60):                    false,
		fmt.Sprintf(`{"exp":%d,"role":"Admin"}`, now+60):                   false,
		fmt.Sprintf(`{"exp":%d,"role":["admin"]}`, now+60):                 false,
		fmt.Sprintf(`{"exp":%d,"role":true}`, now+60):                      false,
		fmt.Sprintf(`{"exp":%d,"role":"admin","nbf":%d}`, now+600, now+90): false,
		fmt.Sprintf(`{"exp":%d,"role":"admin"}`, now-60):                   false,
		fmt.Sprintf(`{"exp":"%d","role":"admin"}`, now+60):                 false,
		`{"role":"admin"}`:            false,
		`{"exp":null,"role":"admin"}`: false,
		`{"exp":-1}`:                  false,
		`{"exp":1e400}`:               false,
		`[]`:                          false,
		`"admin"`:                     false,
		`null`:                        false,
		``:                            false,
	} {
		err := Verify(pub, compact(t, sign(t, jose.SigningKey{Algorithm: jose.EdDSA, Key: priv}, payload)), fixed())
		if good != (err == nil) || err != nil && !errors.Is(err, ErrDenied) {
			t.Errorf("%s: error %v, want accepted %v", payload, err, good)
		}
	}
}

func TestAnotherAlgorithmOrFormIsRefused(t *testing.T) {
	t.Parallel()
	pub, priv := keys(t)
	payload := fmt.Sprintf(`{"exp":%d,"role":"admin"}`, fixed().Unix()+60)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := sign(t, jose.SigningKey{Algorithm: jose.EdDSA, Key: priv}, payload)
	b64 := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	for name, token := range map[string]string{
		// The public key is no secret: it must not serve as one.
		"public key as a shared one": compact(t, sign(t, jose.SigningKey{Algorithm: jose.HS256, Key: []byte(pub)}, payload)),
		"elliptic curve":             compact(t, sign(t, jose.SigningKey{Algorithm: jose.ES256, Key: ec}, payload)),
		"none":                       b64(`{"alg":"none"}`) + "." + b64(payload) + ".",
		"JSON form":                  good.FullSerialize(),
		"no payload":                 b64(`{"alg":"EdDSA"}`) + "..",
		"critical member":            b64(`{"alg":"EdDSA","crit":["x"],"x":1}`) + compact(t, good)[len(b64(`{"alg":"EdDSA"}`)):],
		"own key in the header":      embedded(t, payload),
	} {
		if err := Verify(pub, token, fixed()); !errors.Is(err, ErrDenied) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if err := Verify(pub, compact(t, good), fixed()); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

// embedded is signed by a key that only its own header vouches for.
func embedded(t testing.TB, payload string) string {
	t.Helper()
	_, priv := keys(t)
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: priv}, &jose.SignerOptions{EmbedJWK: true})
	if err != nil {
		t.Fatal(err)
	}
	jws, err := s.Sign([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return compact(t, jws)
}
