// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package intoto

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"cocoon/trustee/rvps/signer"
)

func wrap(t testing.TB, kind, body string, sigs ...[]byte) []byte {
	t.Helper()
	e := envelope{PayloadType: kind, Payload: base64.StdEncoding.EncodeToString([]byte(body)), Signatures: []signature{}}
	for _, s := range sigs {
		e.Signatures = append(e.Signatures, signature{Sig: base64.StdEncoding.EncodeToString(s)})
	}
	raw, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// saying is a statement of reference values.
func saying(subjects, predicate string) string {
	return fmt.Sprintf(`{"_type":%q,"subject":[%s],"predicateType":%q,"predicate":%s}`, StatementType, subjects, PredicateType, predicate)
}

// testKeys are made anew in each run.
func testKeys(t testing.TB) []crypto.Signer {
	t.Helper()
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return []crypto.Signer{p256, p384, ed}
}

func keyOf(t testing.TB, s crypto.Signer) signer.Key {
	t.Helper()
	k, err := signer.NewKey(s.Public())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// sign signs the message; its framing is written out here a second time.
func sign(t testing.TB, s crypto.Signer, kind, body string) []byte {
	t.Helper()
	message := []byte("DSSEv1 " + fmt.Sprint(len(kind)) + " " + kind + " " + fmt.Sprint(len(body)) + " " + body)
	digest, opts := message, crypto.SignerOpts(crypto.Hash(0))
	if k, ok := s.(*ecdsa.PrivateKey); ok && k.Curve == elliptic.P256() {
		sum := sha256.Sum256(message)
		digest, opts = sum[:], crypto.SHA256
	} else if ok {
		sum := sha512.Sum384(message)
		digest, opts = sum[:], crypto.SHA384
	}
	sig, err := s.Sign(rand.Reader, digest, opts)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func TestTheFramingIsThatOfTheSpecification(t *testing.T) {
	t.Parallel()
	got := string(authenticated("http://example.com/HelloWorld", []byte("hello world")))
	if want := "DSSEv1 29 http://example.com/HelloWorld 11 hello world"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestPredicateAndSubjectsAreValues(t *testing.T) {
	t.Parallel()
	d32, d64 := strings.Repeat("ab", 32), strings.Repeat("cd", 64)
	body := saying(fmt.Sprintf(`{"name":"kernel","digest":{"sha512":%q,"sha256":%q}}`, d64, d32),
		`{"values":{"svn":[18446744073709551615],"b":true},"notBefore":"2030-01-01T00:00:00Z","expires":"2031-01-01T00:00:00Z"}`)
	for _, s := range testKeys(t) {
		got, err := Parse(wrap(t, PayloadType, body, []byte("another"), sign(t, s, PayloadType, body)), []signer.Key{keyOf(t, s)})
		if err != nil {
			t.Fatal(err)
		}
		if text := fmt.Sprint(got.Values); text != "map[b:true kernel:["+d32+" "+d64+"] svn:[18446744073709551615]]" {
			t.Errorf("values %s", text)
		}
		if got.NotBefore.Year() != 2030 || got.NotAfter.Year() != 2031 || got.Signer.ID != keyOf(t, s).ID {
			t.Errorf("got %+v", got)
		}
	}
	got, err := Parse(wrap(t, PayloadType, body), nil)
	if err != nil || got.Signer != nil || len(got.Values) != 3 || !got.NotAfter.After(time.Unix(0, 0)) {
		t.Errorf("unsigned: %+v, error %v", got, err)
	}
}

func TestOneOfTheSignersMustHaveSigned(t *testing.T) {
	t.Parallel()
	body := saying("", `{"values":{"a":1}}`)
	keys := testKeys(t)
	other := testKeys(t)
	for i, s := range keys {
		sig := sign(t, s, PayloadType, body)
		flipped := append([]byte{}, sig...)
		flipped[len(flipped)-1] ^= 1
		for name, raw := range map[string][]byte{
			"unsigned":     wrap(t, PayloadType, body),
			"another key":  wrap(t, PayloadType, body, sign(t, other[i], PayloadType, body)),
			"flipped":      wrap(t, PayloadType, body, flipped),
			"empty":        wrap(t, PayloadType, body, nil),
			"other body":   wrap(t, PayloadType, body+" ", sig),
			"other type":   wrap(t, PayloadType, body, sign(t, s, "text/plain", body)),
			"without type": wrap(t, PayloadType, body, sign(t, s, "", body)),
		} {
			if got, err := Parse(raw, []signer.Key{keyOf(t, s)}); !errors.Is(err, signer.ErrUnsigned) {
				t.Errorf("key %d: %s: %+v, error %v", i, name, got, err)
			}
		}
		if _, err := Parse(wrap(t, PayloadType, body, sig), nil); !errors.Is(err, signer.ErrUnsigned) {
			t.Errorf("key %d: signed without signers: %v", i, err)
		}
	}
}

func TestWhatIsNoStatementOfReferenceValuesIsRefused(t *testing.T) {
	t.Parallel()
	ok := `{"values":{"a":1}}`
	digest := strings.Repeat("ab", 32)
	for name, raw := range map[string][]byte{
		"empty": nil, "list": []byte(`[]`), "trailing": append(wrap(t, PayloadType, saying("", ok)), '{'),
		"payload type":    wrap(t, "application/json", saying("", ok)),
		"no base64":       []byte(`{"payloadType":"application/vnd.in-toto+json","payload":"%","signatures":[]}`),
		"older statement": wrap(t, PayloadType, strings.Replace(saying("", ok), "/v1", "/v0.1", 1)),
		"provenance":      wrap(t, PayloadType, strings.Replace(saying("", ok), PredicateType, "https://slsa.dev/provenance/v1", 1)),
		"no predicate":    wrap(t, PayloadType, `{"_type":"`+StatementType+`","predicateType":"`+PredicateType+`"}`),
		"bad date":        wrap(t, PayloadType, saying("", `{"values":{"a":1},"expires":"soon"}`)),
		"values of list":  wrap(t, PayloadType, saying("", `{"values":[1]}`)),
		"two of a name":   wrap(t, PayloadType, saying(`{"name":"a","digest":{"sha256":"`+digest+`"}}`, ok)),
		"no digest":       wrap(t, PayloadType, saying(`{"name":"b"}`, ok)),
		"short digest":    wrap(t, PayloadType, saying(`{"name":"b","digest":{"sha256":"ab"}}`, ok)),
		"upper case":      wrap(t, PayloadType, saying(`{"name":"b","digest":{"sha256":"`+strings.ToUpper(digest)+`"}}`, ok)),
		"weak digest":     wrap(t, PayloadType, saying(`{"name":"b","digest":{"md5":"`+digest[:32]+`"}}`, ok)),
		"too large":       make([]byte, MaxSize+1),
		"many signatures": wrap(t, PayloadType, saying("", ok), make([][]byte, maxSignatures+1)...),
	} {
		if got, err := Parse(raw, nil); !errors.Is(err, ErrBadStatement) {
			t.Errorf("%s: %+v, error %v", name, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(wrap(f, PayloadType, saying("", `{"values":{"a":1}}`)))
	f.Add(wrap(f, PayloadType, saying(`{"name":"b","digest":{"sha256":"`+strings.Repeat("ab", 32)+`"}}`, `{"values":{},"expires":"2031-01-01T00:00:00Z"}`)))
	f.Add(wrap(f, PayloadType, saying("", `{"values":{"a":1}}`), []byte("x")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := Parse(raw, nil)
		if err != nil {
			if !errors.Is(err, ErrBadStatement) && !errors.Is(err, signer.ErrUnsigned) {
				t.Fatalf("error %v is none of the two", err)
			}
			return
		}
		if got.Signer != nil {
			t.Fatal("signed without a key")
		}
	})
}
