// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package teekey

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"math/big"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

const vectorKey = `{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"VE5DZ3lY7GNrA5aP5NMjW98d4e1unpNW2OMcAMXLdEg","y":"5vkL19iSlbWONgHGXmtSDCMgIcvxQAfhyJOIhBXVf44"}`

func ecMembers(t testing.TB, pub *ecdsa.PublicKey) map[string]any {
	t.Helper()
	point, err := pub.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	x, y := point[1:1+len(point)/2], point[1+len(point)/2:]
	return map[string]any{"kty": "EC", "crv": pub.Curve.Params().Name, "alg": algECDH, "x": b64(x), "y": b64(y)}
}

func rsaMembers(pub *rsa.PublicKey) map[string]any {
	return map[string]any{
		"kty": "RSA", "alg": algRSA, "n": b64(pub.N.Bytes()), "e": b64(big.NewInt(int64(pub.E)).Bytes()),
	}
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestAnotherImplementationOpensTheEnvelope(t *testing.T) {
	t.Parallel()
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name    string
		private any
		members map[string]any
	}{
		{"P-256", p256, ecMembers(t, &p256.PublicKey)},
		{"P-521", p521, ecMembers(t, &p521.PublicKey)},
		{"RSA", rsaKey, rsaMembers(&rsaKey.PublicKey)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k, err := Parse(encode(t, tc.members))
			if err != nil {
				t.Fatal(err)
			}
			for _, secret := range [][]byte{nil, []byte("s"), bytes.Repeat([]byte{7}, 1<<20)} {
				e, err := k.Encrypt(secret)
				if err != nil {
					t.Fatal(err)
				}
				jwe, err := jose.ParseEncryptedJSON(string(encode(t, e)), []jose.KeyAlgorithm{algECDH, algRSA}, []jose.ContentEncryption{jose.A256GCM})
				if err != nil {
					t.Fatal(err)
				}
				got, err := jwe.Decrypt(tc.private)
				if err != nil || !bytes.Equal(got, secret) {
					t.Fatalf("decrypted %d bytes, want %d; error %v", len(got), len(secret), err)
				}
			}
		})
	}
}

func TestTheVectorOfTheProtocolIsReproduced(t *testing.T) {
	t.Parallel()
	k, err := Parse([]byte(vectorKey))
	if err != nil {
		t.Fatal(err)
	}
	z, err := hex.DecodeString("e5a4d448a35c2117496015e3a32d96c4be76f8f8c7f902cf1aae9a81ed8cea6e")
	if err != nil {
		t.Fatal(err)
	}
	kek, err := deriveKEK(z)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := hex.EncodeToString(kek), "291d17a23322d5b562b19cc01bc2fb01b1bcb61d3acd49a5884f9489a3855a7d"; got != want {
		t.Fatalf("KEK %s, want %s", got, want)
	}
	cek, iv := make([]byte, 32), make([]byte, 12)
	for i := range cek {
		cek[i] = byte(0x40 + i)
	}
	for i := range iv {
		iv[i] = byte(i)
	}
	head := header{Alg: algECDH, Enc: "A256GCM", EPK: &ephemeral{
		Crv: k.curve, Kty: "EC", X: "T43MWcNLKv8kqc0gvuLHyISqyraMYbQxuYvqgvPzouY", Y: "J7PUtFUVkbhg3tjq-7tCds8qf_vHve1DYAzyLZ7qBTA",
	}}
	e, err := seal(head, []byte("wrapped"), sealing{cek: cek, iv: iv, plaintext: []byte("hello cocoon")})
	if err != nil {
		t.Fatal(err)
	}
	wantHead := "eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZHQ00iLCJlcGsiOnsiY3J2IjoiUC0yNTYiLCJrdHkiOiJFQyIsIngiOiJUNDNNV2NOTEt2OGtxYzBndnVMSHlJU3F5cmFNWWJReHVZdnFndlB6b3VZIiwieSI6Iko3UFV0RlVWa2JoZzN0anEtN3RDZHM4cWZfdkh2ZTFEWUF6eUxaN3FCVEEifX0"
	if e.Protected != wantHead || e.Ciphertext != "UmAAFBisJ8-hfe-s" || e.Tag != "5Tm1GpokwB3CLCTo8KLGkQ" || e.IV != "AAECAwQFBgcICQoL" {
		t.Fatalf("envelope differs from the vector: %+v", e)
	}
}

func TestTheTagCoversTheHeader(t *testing.T) {
	t.Parallel()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := Parse(encode(t, ecMembers(t, &priv.PublicKey)))
	if err != nil {
		t.Fatal(err)
	}
	e, err := k.Encrypt([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(e.Protected)
	if err != nil {
		t.Fatal(err)
	}
	e.Protected = b64(append([]byte(" "), raw...))
	jwe, err := jose.ParseEncryptedJSON(string(encode(t, e)), []jose.KeyAlgorithm{algECDH}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jwe.Decrypt(priv); err == nil {
		t.Fatal("an envelope with another header was opened")
	}
}

func TestUnusableKeysAreRefused(t *testing.T) {
	t.Parallel()
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := ecMembers(t, &p256.PublicKey)
	with := func(base map[string]any, name string, v any) map[string]any {
		m := maps.Clone(base)
		m[name] = v
		return m
	}
	rsaGood := map[string]any{"kty": "RSA", "alg": algRSA, "n": b64(append([]byte{0x80}, append(make([]byte, 254), 1)...)), "e": "AQAB"}
	if _, err := Parse(encode(t, rsaGood)); err != nil {
		t.Fatalf("base case of the RSA table: %v", err)
	}
	for name, members := range map[string]any{
		"no object":            []int{1},
		"no members":           map[string]any{},
		"kty as number":        with(good, "kty", 1),
		"symmetric":            with(good, "kty", "oct"),
		"post-quantum":         with(good, "kty", "AKP"),
		"curve P-384":          with(good, "crv", "P-384"),
		"foreign alg":          with(good, "alg", "ECDH-ES"),
		"no alg":               with(good, "alg", ""),
		"x short":              with(good, "x", "AAAA"),
		"x padded":             with(good, "x", good["x"].(string)+"="),
		"x long":               with(good, "x", b64(make([]byte, 33))),
		"y of another point":   with(good, "y", good["x"]),
		"point at infinity":    with(with(good, "x", b64(make([]byte, 32))), "y", b64(make([]byte, 32))),
		"RSA with OAEP SHA-1":  with(rsaGood, "alg", "RSA-OAEP"),
		"RSA 1024":             with(rsaGood, "n", b64(append([]byte{0x80}, append(make([]byte, 126), 1)...))),
		"RSA huge":             with(rsaGood, "n", b64(bytes.Repeat([]byte{0xff}, 4096))),
		"RSA even":             with(rsaGood, "n", b64(append([]byte{0x80}, make([]byte, 255)...))),
		"RSA exponent 1":       with(rsaGood, "e", "AQ"),
		"RSA exponent even":    with(rsaGood, "e", "BA"),
		"RSA exponent too big": with(rsaGood, "e", b64([]byte{0xff, 0xff, 0xff, 0xff})),
		"RSA exponent absent":  with(rsaGood, "e", ""),
	} {
		if _, err := Parse(encode(t, members)); !errors.Is(err, ErrBadKey) {
			t.Errorf("%s: error %v, want ErrBadKey", name, err)
		}
	}
}

func TestUnknownMembersAreDropped(t *testing.T) {
	t.Parallel()
	k, err := Parse([]byte(strings.Replace(vectorKey, `"alg"`, `"kid":"1","use":"enc","n":"AA","alg"`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(encode(t, k.Members())); got != vectorKey {
		t.Fatalf("members %s, want %s", got, vectorKey)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(vectorKey))
	f.Add([]byte(`{"kty":"RSA","alg":"RSA-OAEP-256","n":"AQAB","e":"AQAB"}`))
	f.Add([]byte(`{"kty":"EC","crv":"P-521"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		k, err := Parse(raw)
		if err != nil {
			return
		}
		again, err := Parse(encode(t, k.Members()))
		if err != nil {
			t.Fatalf("members of a good key are refused: %v", err)
		}
		if k.ec != nil && !bytes.Equal(k.ec.Bytes(), again.ec.Bytes()) {
			t.Fatal("the key changed")
		}
		if _, err := k.Encrypt([]byte("x")); err != nil {
			t.Fatalf("encrypt to an accepted key: %v", err)
		}
	})
}
