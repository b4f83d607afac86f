// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package decrypt_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"maps"
	"strings"
	"testing"
	"testing/iotest"

	"cocoon/imagers/decrypt"
	"cocoon/imagers/imagetest"
	"cocoon/internal/stage"
)

var kek = bytes.Repeat([]byte{1}, 32)

func layer(t testing.TB, plain string) imagetest.Layer {
	return imagetest.Encrypt(t, imagetest.Layer{MediaType: "x", Blob: []byte(plain)}, kek, "kid")
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// TestLayersOfTheReferenceCipherAreOpened takes what the library of the
// format encrypted, in pieces of all sizes.
func TestLayersOfTheReferenceCipherAreOpened(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 15, 16, 17, 10 << 10, 100_001} {
		plain := strings.Repeat("p", size)
		l := layer(t, plain)
		e, err := decrypt.ParseAnnotations(l.Annotations)
		if err != nil {
			t.Fatal(err)
		}
		k, err := e.Unwrap(t.Context(), imagetest.Keys{"kid": kek})
		if err != nil {
			t.Fatal(err)
		}
		for _, src := range []io.Reader{bytes.NewReader(l.Blob), iotest.DataErrReader(bytes.NewReader(l.Blob)), iotest.HalfReader(bytes.NewReader(l.Blob))} {
			r, err := k.Reader(src)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); err != nil || string(got) != plain {
				t.Errorf("size %d: got %d bytes, %v", size, len(got), err)
			}
		}
	}
}

func TestEveryChangeOfTheCiphertextIsNoticed(t *testing.T) {
	t.Parallel()
	l := layer(t, "some plaintext of a layer")
	e, err := decrypt.ParseAnnotations(l.Annotations)
	if err != nil {
		t.Fatal(err)
	}
	k, err := e.Unwrap(t.Context(), imagetest.Keys{"kid": kek})
	if err != nil {
		t.Fatal(err)
	}
	try := func(what string, blob []byte) {
		r, err := k.Reader(bytes.NewReader(blob))
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(r)
		if !errors.Is(err, decrypt.ErrHMAC) || !errors.Is(err, decrypt.ErrDecrypt) || stage.Of(err) != stage.Decrypt {
			t.Errorf("%s: %v", what, err)
		}
		if _, again := r.Read(make([]byte, 1)); !errors.Is(again, decrypt.ErrHMAC) {
			t.Errorf("%s: a second read says %v", what, again)
		}
	}
	for i := range l.Blob {
		blob := bytes.Clone(l.Blob)
		blob[i] ^= 0x80
		try("flipped", blob)
		try("cut", l.Blob[:i])
	}
	try("longer", append(bytes.Clone(l.Blob), 0))
	boom := errors.New("boom")
	r, err := k.Reader(io.MultiReader(bytes.NewReader(l.Blob), iotest.ErrReader(boom)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); !errors.Is(err, boom) {
		t.Errorf("the source's own error became %v", err)
	}
}

func TestAnnotationsThatAreMalformedAreRefused(t *testing.T) {
	t.Parallel()
	good := layer(t, "x").Annotations
	hmac := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for name, change := range map[string]func(map[string]string){
		"no key":          func(a map[string]string) { delete(a, decrypt.ProviderAnnotation) },
		"empty key":       func(a map[string]string) { a[decrypt.ProviderAnnotation] = "" },
		"key not base64":  func(a map[string]string) { a[decrypt.ProviderAnnotation] = "***" },
		"empty packet":    func(a map[string]string) { a[decrypt.ProviderAnnotation] += "," },
		"many packets":    func(a map[string]string) { a[decrypt.ProviderAnnotation] = strings.Repeat("YQ==,", 16) + "YQ==" },
		"huge":            func(a map[string]string) { a[decrypt.ProviderAnnotation] = strings.Repeat("YQ==", 1<<19) },
		"no options":      func(a map[string]string) { delete(a, decrypt.OptionsAnnotation) },
		"options no json": func(a map[string]string) { a[decrypt.OptionsAnnotation] = b64("x") },
		"other cipher": func(a map[string]string) {
			a[decrypt.OptionsAnnotation] = b64(`{"cipher":"NONE","hmac":"` + hmac + `"}`)
		},
		"no cipher": func(a map[string]string) { a[decrypt.OptionsAnnotation] = b64(`{"hmac":"` + hmac + `"}`) },
		"no hmac":   func(a map[string]string) { a[decrypt.OptionsAnnotation] = b64(`{"cipher":"AES_256_CTR_HMAC_SHA256"}`) },
		"short hmac": func(a map[string]string) {
			a[decrypt.OptionsAnnotation] = b64(`{"cipher":"AES_256_CTR_HMAC_SHA256","hmac":"YQ=="}`)
		},
		"options too long": func(a map[string]string) { a[decrypt.OptionsAnnotation] = b64(strings.Repeat(" ", 1<<17)) },
	} {
		a := maps.Clone(good)
		change(a)
		if _, err := decrypt.ParseAnnotations(a); !errors.Is(err, decrypt.ErrDecrypt) || stage.Of(err) != stage.Decrypt {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// fixed is a key unwrapper that always gives the same answer.
type fixed string

func (f fixed) UnwrapKey(context.Context, []byte) ([]byte, error) { return []byte(f), nil }

func TestPrivateOptionsThatAreMalformedAreRefusedWithoutQuotingThem(t *testing.T) {
	t.Parallel()
	key, nonce := base64.StdEncoding.EncodeToString(kek), base64.StdEncoding.EncodeToString(make([]byte, 16))
	for name, private := range map[string]string{
		"nothing": "", "no json": key, "short key": `{"symkey":"c2VjcmV0","cipheroptions":{"nonce":"` + nonce + `"}}`,
		"no nonce": `{"symkey":"` + key + `"}`, "short nonce": `{"symkey":"` + key + `","cipheroptions":{"nonce":"YQ=="}}`, "huge": strings.Repeat(" ", 1<<17),
	} {
		e := &decrypt.Envelope{Packets: [][]byte{[]byte("p")}, HMAC: make([]byte, 32)}
		_, err := e.Unwrap(t.Context(), fixed(private))
		if !errors.Is(err, decrypt.ErrDecrypt) || strings.Contains(err.Error(), key) || strings.Contains(err.Error(), "c2VjcmV0") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The nonce of the public options wins; a wrong one must not stop the guest.
	e := &decrypt.Envelope{Packets: [][]byte{[]byte("p")}, HMAC: make([]byte, 32), Nonce: []byte("short")}
	if _, err := e.Unwrap(t.Context(), fixed(`{"symkey":"`+key+`","cipheroptions":{"nonce":"`+nonce+`"}}`)); !errors.Is(err, decrypt.ErrDecrypt) {
		t.Errorf("public nonce: %v", err)
	}
}

func TestPacketsAreTriedUntilOneOpens(t *testing.T) {
	t.Parallel()
	l := layer(t, "x")
	l.Annotations[decrypt.ProviderAnnotation] = b64(`{"kid":"other"}`) + "," + l.Annotations[decrypt.ProviderAnnotation]
	e, err := decrypt.ParseAnnotations(l.Annotations)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Unwrap(t.Context(), imagetest.Keys{"kid": kek}); err != nil {
		t.Error(err)
	}
	if _, err := e.Unwrap(t.Context(), imagetest.Keys{}); err == nil || !strings.Contains(err.Error(), `"other"`) || !strings.Contains(err.Error(), `"kid"`) {
		t.Errorf("not every packet is named: %v", err)
	}
}

func FuzzAnnotations(f *testing.F) {
	a := layer(f, "x").Annotations
	f.Add(a[decrypt.ProviderAnnotation], a[decrypt.OptionsAnnotation], []byte(`{"symkey":"","cipheroptions":{"nonce":""}}`))
	f.Add("YQ==,YQ==", b64(`{"cipher":"AES_256_CTR_HMAC_SHA256","hmac":null}`), []byte("{}"))
	f.Fuzz(func(t *testing.T, wrapped, public string, private []byte) {
		e, err := decrypt.ParseAnnotations(map[string]string{decrypt.ProviderAnnotation: wrapped, decrypt.OptionsAnnotation: public})
		if err != nil {
			return
		}
		k, err := e.Unwrap(t.Context(), fixed(private))
		if err != nil {
			return
		}
		r, err := k.Reader(strings.NewReader("ciphertext"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(r); err == nil {
			t.Error("a forged hmac was accepted")
		}
	})
}
