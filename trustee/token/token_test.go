// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"cocoon/internal/sharedtest"
)

func fixed() time.Time { return time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC) }

func issue(t testing.TB, curve elliptic.Curve) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: fixed().Add(-time.Hour), NotAfter: fixed().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

func signer(t testing.TB, now func() time.Time) (*Signer, *x509.Certificate) {
	t.Helper()
	key, cert := issue(t, elliptic.P256())
	s, err := NewSigner(key, []*x509.Certificate{cert}, now)
	if err != nil {
		t.Fatal(err)
	}
	return s, cert
}

func TestClaimsComeBackUntilTheyExpire(t *testing.T) {
	t.Parallel()
	s, cert := signer(t, fixed)
	claims := map[string]any{"submods": map[string]any{"cpu0": "x"}}
	before := maps.Clone(claims)
	compact, err := s.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(claims) != fmt.Sprint(before) {
		t.Fatal("the caller's claims were changed")
	}
	for after, good := range map[time.Duration]bool{
		0: true, Life: true, Life + leeway - time.Second: true, Life + leeway: false, 25 * time.Hour: false, -2 * time.Hour: false,
	} {
		trust := NewTrust([]*x509.Certificate{cert}, func() time.Time { return fixed().Add(after) })
		got, err := trust.Verify(compact)
		if good != (err == nil) || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("after %s: error %v", after, err)
		}
		if good && fmt.Sprint(got["submods"]) != "map[cpu0:x]" {
			t.Errorf("claims %v", got)
		}
	}
}

func TestTimesInATokenAreRequiredAndKept(t *testing.T) {
	t.Parallel()
	key, cert := issue(t, elliptic.P256())
	jwk := jose.JSONWebKey{Key: key, Algorithm: "ES256", Certificates: []*x509.Certificate{cert}}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jwk}, &jose.SignerOptions{EmbedJWK: true})
	if err != nil {
		t.Fatal(err)
	}
	trust := NewTrust([]*x509.Certificate{cert}, fixed)
	for payload, good := range map[string]bool{
		fmt.Sprintf(`{"exp":%d}`, fixed().Unix()+1):   true,
		fmt.Sprintf(`{"exp":"%d"}`, fixed().Unix()+1): false,
		`{}`: false,
		`[]`: false,
		`x`:  false,
		fmt.Sprintf(`{"exp":%d,"nbf":%d}`, fixed().Unix()+999, fixed().Unix()+90): false,
		fmt.Sprintf(`{"exp":%d,"nbf":%d}`, fixed().Unix()+999, fixed().Unix()):    true,
	} {
		jws, err := s.Sign([]byte(payload))
		if err != nil {
			t.Fatal(err)
		}
		compact, err := jws.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := trust.Verify(compact); good != (err == nil) {
			t.Errorf("payload %s: error %v", payload, err)
		}
	}
}

func TestASignerNeedsItsOwnP256Certificate(t *testing.T) {
	t.Parallel()
	key, cert := issue(t, elliptic.P256())
	other, _ := issue(t, elliptic.P256())
	big, bigCert := issue(t, elliptic.P384())
	for name, tc := range map[string]struct {
		key   *ecdsa.PrivateKey
		chain []*x509.Certificate
	}{
		"no certificate": {key, nil}, "another's": {other, []*x509.Certificate{cert}}, "P-384": {big, []*x509.Certificate{bigCert}},
	} {
		if _, err := NewSigner(tc.key, tc.chain, fixed); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestTheKeySetVerifiesTokensAndHoldsNoSecret(t *testing.T) {
	t.Parallel()
	s, cert := signer(t, fixed)
	compact, err := s.Sign(map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := s.KeySet()
	if err != nil {
		t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(raw, &set); err != nil || len(set.Keys) != 1 || !set.Keys[0].IsPublic() || !set.Keys[0].Certificates[0].Equal(cert) {
		t.Fatalf("key set %s, error %v", raw, err)
	}
	jws, err := jose.ParseSignedCompact(compact, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jws.Verify(set.Keys[0]); err != nil || strings.Contains(string(raw), `"d"`) {
		t.Fatalf("verify: %v; key set %s", err, raw)
	}
}

func TestATokenThatNoHeaderHoldsIsNotIssued(t *testing.T) {
	t.Parallel()
	s, _ := signer(t, fixed)
	if _, err := s.Sign(map[string]any{"x": strings.Repeat("x", MaxSize)}); err == nil {
		t.Fatal("issued")
	}
}

// The seven scenarios are those of the upstream broker's own tests.
func TestEndorsementOfTheKeyInTheHeader(t *testing.T) {
	t.Parallel()
	good := map[int]bool{1: true, 2: false, 3: false, 4: false, 5: true, 6: true, 7: true}
	for i := 1; i <= 7; i++ {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			base := fmt.Sprintf("evidence/token/scenario%02d-", i)
			var roots []*x509.Certificate
			for rest := sharedtest.Read(t, base+"trust.pem"); ; {
				var block *pem.Block
				if block, rest = pem.Decode(rest); block == nil {
					break
				}
				c, err := x509.ParseCertificate(block.Bytes)
				if err != nil {
					t.Fatal(err)
				}
				roots = append(roots, c)
			}
			trust := NewTrust(roots, fixed)
			var k jose.JSONWebKey
			err := json.Unmarshal(sharedtest.Read(t, base+"jwk.json"), &k)
			if err == nil {
				err = trust.endorsed(&k)
			}
			if good[i] != (err == nil) {
				t.Fatalf("error %v, want good %v", err, good[i])
			}
		})
	}
}

func TestTheKeyInTheHeaderIsThatOfItsCertificate(t *testing.T) {
	t.Parallel()
	key, cert := issue(t, elliptic.P256())
	other, _ := issue(t, elliptic.P256())
	trust := NewTrust([]*x509.Certificate{cert}, fixed)
	for name, tc := range map[string]struct {
		k    jose.JSONWebKey
		good bool
	}{
		"its own":        {jose.JSONWebKey{Key: &key.PublicKey, Certificates: []*x509.Certificate{cert}}, true},
		"another":        {jose.JSONWebKey{Key: &other.PublicKey, Certificates: []*x509.Certificate{cert}}, false},
		"symmetric":      {jose.JSONWebKey{Key: []byte("secret"), Certificates: []*x509.Certificate{cert}}, false},
		"no certificate": {jose.JSONWebKey{Key: &key.PublicKey}, false},
	} {
		if err := trust.endorsed(&tc.k); tc.good != (err == nil) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestTheKeyInTheHeaderNamesTheAlgorithm(t *testing.T) {
	t.Parallel()
	key, cert := issue(t, elliptic.P256())
	trust := NewTrust([]*x509.Certificate{cert}, fixed)
	for alg, good := range map[string]bool{"ES256": true, "ES384": false, "": false} {
		jwk := jose.JSONWebKey{Key: &key.PublicKey, Algorithm: alg, Certificates: []*x509.Certificate{cert}}
		opts := (&jose.SignerOptions{}).WithHeader("jwk", jwk)
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, opts)
		if err != nil {
			t.Fatal(err)
		}
		jws, err := s.Sign(fmt.Appendf(nil, `{"exp":%d}`, fixed().Unix()+1))
		if err != nil {
			t.Fatal(err)
		}
		compact, err := jws.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := trust.Verify(compact); good != (err == nil) {
			t.Errorf("alg %q: error %v", alg, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	s, cert := signer(f, fixed)
	compact, err := s.Sign(map[string]any{"submods": map[string]any{}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(compact)
	f.Add("e30.e30.e30")
	f.Add(`eyJhbGciOiJub25lIn0.e30.`)
	f.Add("..")
	trust := NewTrust([]*x509.Certificate{cert}, fixed)
	f.Fuzz(func(t *testing.T, text string) {
		claims, err := trust.Verify(text)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || claims != nil {
				t.Fatalf("claims %v, error %v", claims, err)
			}
			return
		}
		// ECDSA signatures and base64 have other spellings; the content has not.
		if want := strings.Split(compact, ".")[1]; strings.Split(text, ".")[1] != want {
			t.Fatalf("forged: %q", text)
		}
	})
}
