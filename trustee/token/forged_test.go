// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// forge signs good claims by a key under a header of the caller's choice.
func forge(t testing.TB, key jose.SigningKey, header map[jose.HeaderKey]any) *jose.JSONWebSignature {
	t.Helper()
	s, err := jose.NewSigner(key, &jose.SignerOptions{ExtraHeaders: header})
	if err != nil {
		t.Fatal(err)
	}
	jws, err := s.Sign(fmt.Appendf(nil, `{"exp":%d,"submods":{}}`, fixed().Unix()+60))
	if err != nil {
		t.Fatal(err)
	}
	return jws
}

func text(t testing.TB, jws *jose.JSONWebSignature) string {
	t.Helper()
	s, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func es256(key *ecdsa.PrivateKey) jose.SigningKey {
	return jose.SigningKey{Algorithm: jose.ES256, Key: key}
}

func TestForgeriesAreInvalid(t *testing.T) {
	t.Parallel()
	key, cert := issue(t, elliptic.P256())
	mallory, malloryCert := issue(t, elliptic.P256())
	trust := NewTrust([]*x509.Certificate{cert}, fixed)
	jwk := func(k *ecdsa.PrivateKey, alg string, certs ...*x509.Certificate) map[jose.HeaderKey]any {
		return map[jose.HeaderKey]any{"jwk": jose.JSONWebKey{Key: &k.PublicKey, Algorithm: alg, Certificates: certs}}
	}
	good := text(t, forge(t, es256(key), jwk(key, "ES256", cert)))
	if _, err := trust.Verify(good); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	part := strings.Split(good, ".")
	b64 := func(v any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	shared := jose.SigningKey{Algorithm: jose.HS256, Key: der}
	critical := jwk(key, "ES256", cert)
	critical["crit"] = []string{"x"}
	for name, token := range map[string]string{
		"empty": "", "dots": "..", "four parts": good + ".x", "two parts": part[0] + "." + part[1], "no signature": part[0] + "." + part[1] + ".",
		"other payload":                b64(nil) + "." + part[1] + "." + part[2],
		"longer life":                  part[0] + "." + b64(map[string]any{"exp": fixed().Unix() + 9999}) + "." + part[2],
		"none":                         b64(map[string]any{"alg": "none"}) + "." + part[1] + ".",
		"none with a key":              b64(map[string]any{"alg": "none", "jwk": map[string]any{"kty": "EC"}}) + "." + part[1] + "." + part[2],
		"public key as a shared one":   text(t, forge(t, shared, jwk(key, "HS256", cert))),
		"another key under our header": text(t, forge(t, es256(mallory), jwk(key, "ES256", cert))),
		"another key, our certificate": text(t, forge(t, es256(mallory), jwk(mallory, "ES256", cert))),
		"another certificate":          text(t, forge(t, es256(mallory), jwk(mallory, "ES256", malloryCert))),
		"another, ours as its issuer":  text(t, forge(t, es256(mallory), jwk(mallory, "ES256", malloryCert, cert))),
		"ours behind no certificate":   text(t, forge(t, es256(key), jwk(key, "ES256"))),
		"key id instead of a key":      text(t, forge(t, es256(key), map[jose.HeaderKey]any{"kid": "1"})),
		"key of another algorithm":     text(t, forge(t, es256(key), jwk(key, "RS256", cert))),
		"critical member":              text(t, forge(t, es256(key), critical)),
		"JSON form":                    forge(t, es256(key), jwk(key, "ES256", cert)).FullSerialize(),
		"too large":                    good + strings.Repeat("A", MaxSize),
	} {
		if claims, err := trust.Verify(token); !errors.Is(err, ErrInvalid) || claims != nil {
			t.Errorf("%s: claims %v, error %v", name, claims, err)
		}
	}
}

func TestATokenKeyMustHaveAValidCertificate(t *testing.T) {
	t.Parallel()
	key, cert := issue(t, elliptic.P256())
	token := text(t, forge(t, es256(key), map[jose.HeaderKey]any{"jwk": jose.JSONWebKey{Key: &key.PublicKey, Algorithm: "ES256", Certificates: []*x509.Certificate{cert}}}))
	for _, years := range []int{-1, 1} {
		now := func() time.Time { return fixed().AddDate(years, 0, 0) }
		if _, err := NewTrust([]*x509.Certificate{cert}, now).Verify(token); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "not endorsed") {
			t.Errorf("at %s: %v", now(), err)
		}
	}
}
