// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package corim

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"

	"cocoon/internal/sharedtest"
	"cocoon/trustee/rvps/signer"
)

type m map[int]any

func enc(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := cbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func tag(n uint64, v any) cbor.Tag { return cbor.Tag{Number: n, Content: v} }

// comid holds one reference triple of the environment and the measurements.
func comid(t testing.TB, env any, measurements ...any) cbor.Tag {
	t.Helper()
	return tag(506, enc(t, m{1: m{0: "id"}, 4: m{0: []any{[]any{env, measurements}}}}))
}

func manifest(t testing.TB, more m, tags ...any) []byte {
	t.Helper()
	all := m{0: "test", 1: tags}
	for k, v := range more {
		all[k] = v
	}
	return enc(t, tag(501, all))
}

func acme() m { return m{0: m{1: "ACME Ltd", 2: "RR"}} }

func digests(v ...byte) []any {
	var list []any
	for _, b := range v {
		list = append(list, []any{1, bytes.Repeat([]byte{b}, 32)})
	}
	return list
}

func good(t testing.TB) []byte {
	t.Helper()
	return manifest(t, nil, tag(505, []byte{0xa0}), comid(t, acme(),
		m{0: "kernel", 1: m{2: digests(1, 2), 11: "name", 8: "serial"}},
		m{0: 7, 1: m{2: digests(3), 4: tag(560, []byte{0xab})}},
		m{0: 7, 1: m{2: digests(4)}},
		m{0: tag(37, bytes.Repeat([]byte{0x11}, 16)), 1: m{4: tag(560, []byte("x")), 1: 5}},
	))
}

func TestNamesAndValuesAreThoseOfTheUpstreamService(t *testing.T) {
	t.Parallel()
	for name, raw := range map[string][]byte{"plain": good(t), "tag of older drafts": append([]byte{0xd9, 1, 0xf4}, good(t)...)} {
		got, err := Parse(raw, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		hex := func(s string) string { return strings.Repeat(s, 32) }
		want := map[string]string{
			"ACME Ltd/RR/kernel/name/serial/digests":                     "[" + hex("01") + " " + hex("02") + "]",
			"ACME Ltd/RR/claim7/digests":                                 "[" + hex("03") + " " + hex("04") + "]",
			"ACME Ltd/RR/claim7/raw_bytes":                               "ab",
			"ACME Ltd/RR/11111111-1111-1111-1111-111111111111/raw_bytes": "78",
		}
		if len(got.Values) != len(want) {
			t.Errorf("%s: values %v", name, got.Values)
		}
		for k, v := range want {
			if fmt.Sprint(got.Values[k]) != v {
				t.Errorf("%s: %s is %v, want %s", name, k, got.Values[k], v)
			}
		}
	}
}

func TestTheUpstreamExampleIsRead(t *testing.T) {
	t.Parallel()
	got, err := Parse(sharedtest.Read(t, "evidence/rvps/unsigned-example-corim.cbor"), nil)
	if err != nil {
		t.Fatal(err)
	}
	list, _ := got.Values["ACME/RoadRunner/31fb5abf-023e-4992-aa4e-95f9c1503bfa/digests"].([]any)
	if len(got.Values) != 1 || len(list) != 3 || list[2] != "a3a5e715f0cc574a73c3f9bebb6bc24f32ffd5b67b387244c2c909da779a1478" {
		t.Fatalf("values %v", got.Values)
	}
}

func TestWhatIsNoUsableManifestIsRefused(t *testing.T) {
	t.Parallel()
	one := m{0: "k", 1: m{2: digests(1)}}
	for name, raw := range map[string][]byte{
		"empty": nil, "text": []byte("corim"), "cut": good(t)[:40], "trailing": append(good(t), 0), "no tag": good(t)[3:],
		"other tag":          enc(t, tag(502, m{1: []any{}})),
		"no tags":            manifest(t, nil),
		"only other tags":    manifest(t, nil, tag(505, []byte{0xa0})),
		"no value":           manifest(t, nil, comid(t, acme(), m{0: "k", 1: m{1: 5}})),
		"instance":           manifest(t, nil, comid(t, m{0: m{1: "v"}, 1: tag(550, []byte{1})}, one)),
		"group":              manifest(t, nil, comid(t, m{2: tag(560, []byte{1})}, one)),
		"authority":          manifest(t, nil, comid(t, acme(), m{0: "k", 1: m{2: digests(1)}, 2: []any{1}})),
		"key by OID":         manifest(t, nil, comid(t, acme(), m{0: tag(111, []byte{1}), 1: m{2: digests(1)}})),
		"short UUID":         manifest(t, nil, comid(t, acme(), m{0: tag(37, []byte{1}), 1: m{2: digests(1)}})),
		"negative key":       manifest(t, nil, comid(t, acme(), m{0: -1, 1: m{2: digests(1)}})),
		"vendor of a number": manifest(t, nil, comid(t, m{0: m{1: 7}}, one)),
		"digest of text":     manifest(t, nil, comid(t, acme(), m{1: m{2: []any{[]any{1, "x"}}}})),
		"digest of three":    manifest(t, nil, comid(t, acme(), m{1: m{2: []any{[]any{1, []byte{1}, 2}}}})),
		"empty digest":       manifest(t, nil, comid(t, acme(), m{1: m{2: []any{[]any{1, []byte{}}}}})),
		"long digest":        manifest(t, nil, comid(t, acme(), m{1: m{2: []any{[]any{1, make([]byte, 65)}}}})),
		"long raw":           manifest(t, nil, comid(t, acme(), m{1: m{4: tag(560, make([]byte, maxRaw+1))}})),
		"masked raw":         manifest(t, nil, comid(t, acme(), m{1: m{4: tag(560, []byte{1}), 5: []byte{1}}})),
		"two raw":            manifest(t, nil, comid(t, acme(), m{1: m{4: tag(560, []byte{1})}}, m{1: m{4: tag(560, []byte{2})}})),
		"endless validity":   manifest(t, m{4: m{0: tag(1, 1)}}, comid(t, acme(), one)),
		"twice a key":        append(append([]byte{0xd9, 1, 0xf5, 0xa2, 1}, enc(t, []any{comid(t, acme(), one)})...), append([]byte{1}, enc(t, []any{})...)...),
		"deep":               append([]byte{0xd9, 1, 0xf5}, append(bytes.Repeat([]byte{0x81}, 1000), 0)...),
		"claimed size":       {0xd9, 1, 0xf5, 0xa1, 1, 0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"too large":          make([]byte, MaxSize+1),
		"broken CoMID":       manifest(t, nil, tag(506, []byte{0xa1})),
		"CoMID of an array":  manifest(t, nil, tag(506, []byte{0x80})),
	} {
		if got, err := Parse(raw, nil); !errors.Is(err, ErrBadManifest) {
			t.Errorf("%s: %+v, error %v", name, got, err)
		}
	}
}

// testKeys are made anew in each run.
func testKeys(t testing.TB) map[cose.Algorithm]crypto.Signer {
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
	return map[cose.Algorithm]crypto.Signer{cose.AlgorithmES256: p256, cose.AlgorithmES384: p384, cose.AlgorithmEdDSA: ed}
}

func keyOf(t testing.TB, s crypto.Signer) signer.Key {
	t.Helper()
	k, err := signer.NewKey(s.Public())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t testing.TB, alg cose.Algorithm, key crypto.Signer, more cose.ProtectedHeader, payload []byte) []byte {
	t.Helper()
	s, err := cose.NewSigner(alg, key)
	if err != nil {
		t.Fatal(err)
	}
	msg := cose.NewSign1Message()
	msg.Payload = payload
	msg.Headers.Protected.SetAlgorithm(alg)
	msg.Headers.Protected[cose.HeaderLabelContentType] = "application/rim+cbor"
	for k, v := range more {
		msg.Headers.Protected[k] = v
	}
	if err := msg.Sign(rand.Reader, nil, s); err != nil {
		t.Fatal(err)
	}
	raw, err := msg.MarshalCBOR()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestOneOfTheSignersMustHaveSigned(t *testing.T) {
	t.Parallel()
	keys, others := testKeys(t), testKeys(t)
	var trusted []signer.Key
	for _, k := range keys {
		trusted = append(trusted, keyOf(t, k))
	}
	for alg, key := range keys {
		raw := sign(t, alg, key, nil, good(t))
		got, err := Parse(raw, trusted)
		if err != nil || got.Signer.ID != keyOf(t, key).ID || len(got.Values) != 4 {
			t.Fatalf("%s: %+v, error %v", alg, got, err)
		}
		forged := bytes.Clone(raw)
		forged[len(forged)-1] ^= 1
		changed := bytes.Replace(raw, []byte("kernel"), []byte("kernex"), 1)
		for name, bad := range map[string][]byte{
			"another key": sign(t, alg, others[alg], nil, good(t)), "flipped signature": forged, "changed payload": changed, "unsigned": good(t),
		} {
			if got, err := Parse(bad, trusted); !errors.Is(err, signer.ErrUnsigned) {
				t.Errorf("%s: %s: %+v, error %v", alg, name, got, err)
			}
		}
		if _, err := Parse(raw, nil); !errors.Is(err, signer.ErrUnsigned) {
			t.Errorf("%s: signed without signers: %v", alg, err)
		}
	}
}

func TestASignatureOverSomethingElseDoesNotCount(t *testing.T) {
	t.Parallel()
	alg := cose.AlgorithmES256
	key := testKeys(t)[alg]
	trusted := []signer.Key{keyOf(t, key)}
	for name, raw := range map[string][]byte{
		"content type":   sign(t, alg, key, cose.ProtectedHeader{cose.HeaderLabelContentType: "application/cwt"}, good(t)),
		"no manifest":    sign(t, alg, key, nil, []byte("x")),
		"nested":         sign(t, alg, key, nil, sign(t, alg, key, nil, good(t))),
		"critical":       sign(t, alg, key, cose.ProtectedHeader{cose.HeaderLabelCritical: []any{int64(99)}, int64(99): 1}, good(t)),
		"meta of text":   sign(t, alg, key, cose.ProtectedHeader{int64(headerMeta): "x"}, good(t)),
		"claims of text": sign(t, alg, key, cose.ProtectedHeader{int64(headerClaims): "x"}, good(t)),
	} {
		if got, err := Parse(raw, trusted); !errors.Is(err, ErrBadManifest) {
			t.Errorf("%s: %+v, error %v", name, got, err)
		}
	}
}

func TestTheNarrowestValidityCounts(t *testing.T) {
	t.Parallel()
	alg := cose.AlgorithmEdDSA
	key := testKeys(t)[alg]
	body := manifest(t, m{4: m{0: tag(1, 1000), 1: tag(1, 9000)}}, comid(t, acme(), m{1: m{2: digests(1)}}))
	for name, tc := range map[string]struct {
		headers  cose.ProtectedHeader
		from, to int64
	}{
		"manifest alone": {nil, 1000, 9000},
		"meta":           {cose.ProtectedHeader{int64(headerMeta): enc(t, m{1: m{0: tag(1, 2000), 1: tag(1, 8000)}})}, 2000, 8000},
		"wider meta":     {cose.ProtectedHeader{int64(headerMeta): enc(t, m{1: m{0: tag(1, 1), 1: tag(1, 90000)}})}, 1000, 9000},
		"claims":         {cose.ProtectedHeader{int64(headerClaims): m{4: 7000, 5: 3000}}, 3000, 7000},
	} {
		got, err := Parse(sign(t, alg, key, tc.headers, body), []signer.Key{keyOf(t, key)})
		if err != nil || !got.NotBefore.Equal(time.Unix(tc.from, 0)) || !got.NotAfter.Equal(time.Unix(tc.to, 0)) {
			t.Errorf("%s: %+v, error %v", name, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	key := testKeys(f)[cose.AlgorithmES256]
	f.Add(good(f))
	f.Add(sign(f, cose.AlgorithmES256, key, nil, good(f)))
	f.Add(manifest(f, m{4: m{0: tag(1, 1000), 1: tag(1, 9000)}}, comid(f, acme(), m{1: m{2: digests(1)}})))
	trusted := []signer.Key{keyOf(f, key)}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, keys := range [][]signer.Key{nil, trusted} {
			got, err := Parse(raw, keys)
			if err != nil {
				if !errors.Is(err, ErrBadManifest) && !errors.Is(err, signer.ErrUnsigned) {
					t.Fatalf("error %v is none of the two", err)
				}
				continue
			}
			if len(got.Values) == 0 || len(got.Values) > maxValues || (got.Signer == nil) != (keys == nil) {
				t.Fatalf("result %+v", got)
			}
		}
	})
}
