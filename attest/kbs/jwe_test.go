// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// The worked example of the protocol: a fixed TEE key and a resource sealed to
// it with a fixed ephemeral key, content key and iv.
const (
	vectorD   = "emye19KO2IadRp7mKtxgfyhRqBgmIrA5snw9jzbROCg"
	vectorX   = "VE5DZ3lY7GNrA5aP5NMjW98d4e1unpNW2OMcAMXLdEg"
	vectorY   = "5vkL19iSlbWONgHGXmtSDCMgIcvxQAfhyJOIhBXVf44"
	vectorJWE = `{"protected":"eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZHQ00iLCJlcGsiOnsiY3J2IjoiUC0yNTYiLCJrdHkiOiJFQyIsIngiOiJUNDNNV2NOTEt2OGtxYzBndnVMSHlJU3F5cmFNWWJReHVZdnFndlB6b3VZIiwieSI6Iko3UFV0RlVWa2JoZzN0anEtN3RDZHM4cWZfdkh2ZTFEWUF6eUxaN3FCVEEifX0","encrypted_key":"EmDHPhJ4WtXhKD0IwsYI1rj8DRHnYr-dEJqF51ibPJIY5YHnC8W-6g","iv":"AAECAwQFBgcICQoL","ciphertext":"UmAAFBisJ8-hfe-s","tag":"5Tm1GpokwB3CLCTo8KLGkQ"}`
)

func vectorKey(t testing.TB) *teeKey {
	t.Helper()
	d, err := base64.RawURLEncoding.DecodeString(vectorD)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecTEEKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ecTEE(t testing.TB) *teeKey {
	t.Helper()
	a, err := keyAlgorithmOf(KeyP256)
	if err != nil {
		t.Fatal(err)
	}
	k, err := newTEEKey(a)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *teeKey) publicJSON() json.RawMessage { return mustJSON(k.public()) }

func TestTheProtocolsJWEVectorOpens(t *testing.T) {
	t.Parallel()
	k := vectorKey(t)
	if k.jwk.X != vectorX || k.jwk.Y != vectorY {
		t.Fatalf("public key is %+v", k.jwk)
	}
	for name, body := range map[string]string{
		"as is":     vectorJWE,
		"null aad":  strings.Replace(vectorJWE, "{", `{"aad":null,`, 1),
		"empty aad": strings.Replace(vectorJWE, "{", `{"aad":"",`, 1),
	} {
		if got, err := k.decrypt([]byte(body)); err != nil || string(got) != "hello cocoon" {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}

// talkative seals to k as a broker that fills the header.
func talkative(t *testing.T, k *teeKey) string {
	t.Helper()
	var key any
	if k.rsa != nil {
		key = &k.rsa.PublicKey
	} else {
		key = &k.ec.PublicKey
	}
	enc, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: k.alg, Key: key}, (&jose.EncrypterOptions{}).
		WithHeader("x-broker", map[string]any{"a": []int{1}}).WithHeader("kid", "tee").WithContentType("octet-stream"))
	if err != nil {
		t.Fatal(err)
	}
	obj, err := enc.Encrypt([]byte("hello cocoon"))
	if err != nil {
		t.Fatal(err)
	}
	return obj.FullSerialize()
}

// A broker of another make may say more than this guest understands.
func TestMembersThatAreNotUnderstoodAreIgnored(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{KeyP256, KeyP521, KeyRSA} {
		a, err := keyAlgorithmOf(alg)
		if err != nil {
			t.Fatal(err)
		}
		k, err := newTEEKey(a)
		if err != nil {
			t.Fatal(err)
		}
		body := strings.Replace(talkative(t, k), "{", `{"version":[1],`, 1)
		if got, err := k.decrypt([]byte(body)); err != nil || string(got) != "hello cocoon" {
			t.Errorf("%s: got %q, %v", alg, got, err)
		}
	}
}

// withHeader returns the vector with edited protected header text.
func withHeader(t *testing.T, old, replacement string) string {
	t.Helper()
	var m map[string]string
	if err := json.Unmarshal([]byte(vectorJWE), &m); err != nil {
		t.Fatal(err)
	}
	h, err := base64.RawURLEncoding.DecodeString(m["protected"])
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(h), old) {
		t.Fatalf("header %s does not hold %s", h, old)
	}
	m["protected"] = base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(h), old, replacement, 1)))
	return string(mustJSON(m))
}

func TestAnAlteredJWEDoesNotOpen(t *testing.T) {
	t.Parallel()
	edit := func(old, replacement string) string { return strings.Replace(vectorJWE, old, replacement, 1) }
	y := "J7PUtFUVkbhg3tjq-7tCds8qf_vHve1DYAzyLZ7qBTA"
	for name, tc := range map[string]struct{ body, text string }{
		"empty":                 {"", "flattened"},
		"array":                 {"[]", "flattened"},
		"null":                  {"null", "no protected"},
		"compact form":          {"a.b.c.d.e", "flattened"},
		"no tag":                {edit(`"tag"`, `"tog"`), "no tag"},
		"tag altered":           {edit("5Tm1", "5Tm2"), "altered"},
		"ciphertext altered":    {edit("UmAA", "UmAB"), "altered"},
		"key altered":           {edit("EmDH", "EmDI"), "altered"},
		"empty key":             {edit("EmDHPhJ4WtXhKD0IwsYI1rj8DRHnYr-dEJqF51ibPJIY5YHnC8W-6g", ""), "altered"},
		"short tag":             {edit("5Tm1GpokwB3CLCTo8KLGkQ", "5Tm1GpokwB3CLCTo"), "tag of 12"},
		"short iv":              {edit("AAECAwQFBgcICQoL", "AAEC"), "iv of 3"},
		"unprotected header":    {edit("{", `{"header":{"alg":"dir"},`), `"header"`},
		"unprotected text":      {edit("{", `{"unprotected":"x",`), "unprotected"},
		"recipients":            {edit("{", `{"recipients":[{}],`), "recipients"},
		"aad":                   {edit("{", `{"aad":"AA",`), "aad"},
		"padded base64":         {edit("AAECAwQFBgcICQoL", "AAECAwQFBgcICQoL="), "JWE iv"},
		"line break in base64":  {edit("UmAAFBisJ8-hfe-s", `UmAAFBis\nJ8-hfe-s`), "line break"},
		"loose base64 bits":     {edit("KLGkQ", "KLGkR"), "JWE tag"},
		"alg none":              {withHeader(t, `"ECDH-ES+A256KW"`, `"none"`), `alg "none"`},
		"alg dir":               {withHeader(t, `"ECDH-ES+A256KW"`, `"dir"`), `alg "dir"`},
		"alg RSA1_5":            {withHeader(t, `"ECDH-ES+A256KW"`, `"RSA1_5"`), "alg"},
		"alg of another key":    {withHeader(t, `"ECDH-ES+A256KW"`, `"RSA-OAEP-256"`), "alg"},
		"alg missing":           {withHeader(t, `"alg":"ECDH-ES+A256KW",`, ``), "no alg"},
		"alg a number":          {withHeader(t, `"ECDH-ES+A256KW"`, `1`), "no alg"},
		"enc A128GCM":           {withHeader(t, `"A256GCM"`, `"A128GCM"`), "enc"},
		"enc CBC":               {withHeader(t, `"A256GCM"`, `"A256CBC-HS512"`), "enc"},
		"enc unknown":           {withHeader(t, `"A256GCM"`, `"XYZ"`), "enc"},
		"compressed":            {withHeader(t, `{"alg"`, `{"zip":"DEF","alg"`), "zip"},
		"critical":              {withHeader(t, `{"alg"`, `{"crit":["alg"],"alg"`), "crit"},
		"party info":            {withHeader(t, `{"alg"`, `{"apu":"AA","alg"`), "apu"},
		"party info v":          {withHeader(t, `{"alg"`, `{"apv":"AA","alg"`), "apv"},
		"iv a number":           {edit(`"iv":"AAECAwQFBgcICQoL"`, `"iv":1`), "no iv"},
		"epk a string":          {withHeader(t, `{"crv"`, `"x","e":{"crv"`), "no ephemeral"},
		"epk without y":         {withHeader(t, `"y"`, `"Y"`), "no y"},
		"unknown member added":  {withHeader(t, `{"alg"`, `{"kid":"x","alg"`), "altered"},
		"embedded key":          {withHeader(t, `{"alg"`, `{"jwk":{},"alg"`), "jwk"},
		"point off the curve":   {withHeader(t, y, "J7PUtFUVkbhg3tjq-7tCds8qf_vHve1DYAzyLZ7qBTE"), "not on P-256"},
		"point zero":            {withHeader(t, y, strings.Repeat("A", 43)), "not on P-256"},
		"coordinate too short":  {withHeader(t, y, "J7PU"), "not 32 bytes"},
		"other curve":           {withHeader(t, `"P-256"`, `"P-521"`), "public EC key"},
		"private ephemeral key": {withHeader(t, `"kty":"EC"`, `"kty":"EC","d":"AA"`), "public EC key"},
		"no ephemeral key":      {withHeader(t, `"epk"`, `"typ"`), "ephemeral"},
		"header reordered":      {withHeader(t, `{"alg":"ECDH-ES+A256KW","enc":"A256GCM"`, `{"enc":"A256GCM","alg":"ECDH-ES+A256KW"`), "altered"},
		"header is a string":    {edit(`eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZHQ00iLCJlcGsiOnsiY3J2IjoiUC0yNTYiLCJrdHkiOiJFQyIsIngiOiJUNDNNV2NOTEt2OGtxYzBndnVMSHlJU3F5cmFNWWJReHVZdnFndlB6b3VZIiwieSI6Iko3UFV0RlVWa2JoZzN0anEtN3RDZHM4cWZfdkh2ZTFEWUF6eUxaN3FCVEEifX0`, "Ingi"), "not a JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := vectorKey(t).decrypt([]byte(tc.body))
			if err == nil || got != nil || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %q, error %v; want an error with %q", got, err, tc.text)
			}
		})
	}
}

func TestAResourceForAnotherKeyDoesNotOpen(t *testing.T) {
	t.Parallel()
	if got, err := ecTEE(t).decrypt([]byte(vectorJWE)); err == nil {
		t.Errorf("opened: %q", got)
	}
}

func FuzzDecrypt(f *testing.F) {
	f.Add([]byte(vectorJWE))
	f.Add([]byte(`{"protected":"e30","encrypted_key":"","iv":"","ciphertext":"","tag":""}`))
	f.Add([]byte(`{"recipients":[]}`))
	f.Add([]byte(`null`))
	k := vectorKey(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := k.decrypt(body)
		// Nobody but the vector's maker can seal to the key without its
		// public half, which the fuzzer is not told.
		if err == nil && string(got) != "hello cocoon" {
			t.Errorf("forged: %q", got)
		}
	})
}
