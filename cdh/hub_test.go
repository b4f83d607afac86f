// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cdh

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"cocoon/internal/bounded"
	"cocoon/internal/stage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// table is a broker that holds resources by their canonical URI.
type table map[string][]byte

func (b table) Resource(_ context.Context, plugin, path, query string) ([]byte, error) {
	r, ok := b[Resource{plugin, path, query}.String()]
	if !ok {
		return nil, stage.Errorf(stage.NotFound, "no such resource")
	}
	return bytes.Clone(r), nil
}

func TestResourceURIsAreParsed(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]Resource{
		"kbs:///default/key/1":                                {"resource", "default/key/1", ""},
		"KBS://host:8080/default/key/1":                       {"resource", "default/key/1", ""},
		"kbs+resource:///a/b/c":                               {"resource", "a/b/c", ""},
		"/default/image-kek/8f3c":                             {"resource", "default/image-kek/8f3c", ""},
		"kbs+pkcs11:///wrap-key?x=1":                          {"pkcs11", "wrap-key", "x=1"},
		"kbs+nebula-ca:///credential?name=n1&ip=10.0.0.2#top": {"nebula-ca", "credential", "name=n1&ip=10.0.0.2"},
		"kbs:///a b/ü/%41":                                    {"resource", "a%20b/%C3%BC/%41", ""},
		"kbs:///a/...b/c.d":                                   {"resource", "a/...b/c.d", ""},
	} {
		got, err := ParseResource(uri)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", uri, got, err, want)
		}
	}
}

func TestResourceURIsThatLeaveTheirPlaceAreRefused(t *testing.T) {
	t.Parallel()
	for _, uri := range []string{
		"", "kbs", "kbs:", "kbs://", "kbs:///", "kbs://host", "kbs://host?q", "http://host/a/b/c", "kbsx:///a", "kbs+:///a",
		"kbs+a/b:///c", "kbs+..:///a", "kbs+A_B:///a", "default/key/1", "//host/a/b", "kbs:///a/../../attest", "kbs:///./a", "kbs:///a/.",
		"kbs:///a//b", "kbs:///a/b/", "kbs:///%2e%2e/attest", "kbs:///a/.%2E/b", "kbs:///a%2fb", "kbs:///a%5cb", "kbs:///a\\..\\b",
		"kbs:///a\nb", "kbs:///a%0ab", "kbs:///a%00", "kbs:///a?x\r\nHost: y", "kbs:///a?%0d", "kbs:///a%", "kbs:///a%zz",
		"kbs:///" + strings.Repeat("a", maxURI),
	} {
		if r, err := ParseResource(uri); !errors.Is(err, ErrURI) {
			t.Errorf("%.60q: got %+v, %v, want %v", uri, r, err, ErrURI)
		}
	}
}

func TestAResourceComesBackUnchanged(t *testing.T) {
	t.Parallel()
	h := New(Config{}, Deps{Broker: table{"kbs:///a/b/c": []byte(" x\n"), "kbs+p:///q?z=1": []byte("plugin")}})
	for uri, want := range map[string]string{"kbs://ignored/a/b/c": " x\n", "kbs+p:///q?z=1": "plugin"} {
		b, err := h.GetResource(t.Context(), uri)
		if err != nil || string(b) != want {
			t.Errorf("%s: got %q, %v", uri, b, err)
		}
	}
	if _, err := h.GetResource(t.Context(), "kbs:///absent/b/c"); stage.Of(err) != stage.NotFound {
		t.Errorf("an absent resource: got %v", err)
	}
	if _, err := h.GetResource(t.Context(), "nonsense"); !errors.Is(err, ErrURI) || stage.Of(err) != stage.Config {
		t.Errorf("a malformed URI: got %v", err)
	}
	if _, err := New(Config{}, Deps{}).GetResource(t.Context(), "kbs:///a/b/c"); !errors.Is(err, errNoBroker) {
		t.Errorf("without a broker: got %v", err)
	}
}

var (
	testKEK  = bytes.Repeat([]byte{7}, kekSize)
	testOpts = []byte(`{"symkey":"AAAA","digest":"sha256:00","cipheroptions":{"nonce":"AAAA"}}`)
)

// fixedWrapped is "hello" under testKEK and twelve bytes of 3.
const fixedWrapped = "TZvPbzW2g3W94LkxtmfoV85fGd72"

// sealGCM encrypts plain as a producer of encrypted images does.
func sealGCM(t testing.TB, key, iv, plain []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return gcm.Seal(nil, iv, plain, nil)
}

func sealCTR(t testing.TB, key, iv, plain []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, len(plain))
	cipher.NewCTR(block, iv).XORKeyStream(out, plain)
	return out
}

// annotation is a packet of version 2; drop names fields to leave out.
func annotation(t testing.TB, set map[string]any, drop ...string) []byte {
	t.Helper()
	iv := bytes.Repeat([]byte{3}, 12)
	p := map[string]any{
		"version": "0.1.0", "provider": "kbs", "kid": "kbs:///default/key/1",
		"wrapped_data": sealGCM(t, testKEK, iv, testOpts), "iv": iv, "wrap_type": "A256GCM",
		"provider_settings": map[string]any{}, "annotations": map[string]any{"x": "y"},
	}
	for k, v := range set {
		p[k] = v
	}
	for _, k := range drop {
		delete(p, k)
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPacketsOfBothVersionsAreOpened(t *testing.T) {
	t.Parallel()
	ctrIV := bytes.Repeat([]byte{0xff}, 16)
	h := New(Config{}, Deps{Broker: table{"kbs:///default/key/1": testKEK}})
	for name, packet := range map[string][]byte{
		"version 2":     annotation(t, nil),
		"version 1":     annotation(t, nil, "version", "provider", "provider_settings", "annotations"),
		"bare key path": annotation(t, map[string]any{"kid": "/default/key/1"}),
		"counter mode":  annotation(t, map[string]any{"wrap_type": "A256CTR", "iv": ctrIV, "wrapped_data": sealCTR(t, testKEK, ctrIV, testOpts)}),
	} {
		got, err := h.UnwrapKey(t.Context(), packet)
		if err != nil || !bytes.Equal(got, testOpts) {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	// A fixed vector, made with another implementation of AES-GCM.
	const fixed = `{"kid":"kbs:///default/key/1","wrapped_data":"` + fixedWrapped + `","iv":"AwMDAwMDAwMDAwMD","wrap_type":"A256GCM"}`
	if got, err := h.UnwrapKey(t.Context(), []byte(fixed)); err != nil || string(got) != "hello" {
		t.Errorf("fixed vector: got %q, %v", got, err)
	}
}

func TestPacketsThatDoNotFitAreRefused(t *testing.T) {
	t.Parallel()
	h := New(Config{}, Deps{Broker: table{
		"kbs:///default/key/1":     testKEK,
		"kbs:///default/key/other": bytes.Repeat([]byte{8}, kekSize),
		"kbs:///default/key/short": testKEK[:31],
		"kbs:///default/key/long":  append(bytes.Clone(testKEK), '\n'),
	}})
	iv := bytes.Repeat([]byte{3}, 12)
	tampered := sealGCM(t, testKEK, iv, testOpts)
	tampered[0] ^= 1
	set := func(k string, v any) []byte { return annotation(t, map[string]any{k: v}) }
	for name, tc := range map[string]struct {
		packet []byte
		want   error
	}{
		"empty":            {nil, ErrPacket},
		"not JSON":         {[]byte("{"), ErrPacket},
		"array":            {[]byte("[]"), ErrPacket},
		"huge":             {bytes.Repeat([]byte(" "), maxPacket+1), bounded.ErrTooLarge},
		"no kid":           {annotation(t, nil, "kid"), ErrPacket},
		"no data":          {annotation(t, nil, "wrapped_data"), ErrPacket},
		"no iv":            {annotation(t, nil, "iv"), ErrPacket},
		"no wrap type":     {annotation(t, nil, "wrap_type"), ErrPacket},
		"other cipher":     {set("wrap_type", "A128GCM"), ErrPacket},
		"lower case":       {set("wrap_type", "a256gcm"), ErrPacket},
		"other version":    {set("version", "0.2.0"), ErrPacket},
		"empty version":    {set("version", ""), ErrPacket},
		"other provider":   {set("provider", "aliyun"), ErrProvider},
		"upper provider":   {set("provider", "KBS"), ErrProvider},
		"empty provider":   {set("provider", ""), ErrProvider},
		"settings string":  {set("provider_settings", "x"), ErrPacket},
		"annotation array": {set("annotations", []int{1}), ErrPacket},
		"bad base64":       {set("wrapped_data", "***"), ErrPacket},
		"short iv":         {set("iv", iv[:11]), ErrPacket},
		"long iv":          {set("iv", append(bytes.Clone(iv), 0, 0, 0, 0)), ErrPacket},
		"ctr with gcm iv":  {set("wrap_type", "A256CTR"), ErrPacket},
		"tampered":         {set("wrapped_data", tampered), ErrUnwrap},
		"too short":        {set("wrapped_data", tampered[:15]), ErrUnwrap},
		"other iv":         {set("iv", make([]byte, 12)), ErrUnwrap},
		"other key":        {set("kid", "kbs:///default/key/other"), ErrUnwrap},
		"short key":        {set("kid", "kbs:///default/key/short"), ErrUnwrap},
		"long key":         {set("kid", "kbs:///default/key/long"), ErrUnwrap},
		"bad kid":          {set("kid", "kbs:///../attest"), ErrURI},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := h.UnwrapKey(t.Context(), tc.packet)
			if !errors.Is(err, tc.want) || got != nil {
				t.Fatalf("got %q, %v, want %v", got, err, tc.want)
			}
			if s := stage.Of(err); s != stage.Decrypt && !errors.Is(tc.want, ErrURI) {
				t.Fatalf("stage %q of %v", s, err)
			}
		})
	}
	if _, err := h.UnwrapKey(t.Context(), set("kid", "kbs:///a/b/absent")); stage.Of(err) != stage.NotFound {
		t.Errorf("absent key: got %v", err)
	}
}

// wiped remembers the slice that it gave away.
type wiped struct{ kek []byte }

func (b *wiped) Resource(context.Context, string, string, string) ([]byte, error) {
	b.kek = bytes.Clone(testKEK)
	return b.kek, nil
}

func TestTheKeyEncryptionKeyIsWiped(t *testing.T) {
	t.Parallel()
	b := &wiped{}
	if _, err := New(Config{}, Deps{Broker: b}).UnwrapKey(t.Context(), annotation(t, nil)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.kek, make([]byte, kekSize)) {
		t.Fatal("the key is still in memory")
	}
}

func TestOfflineResourcesComeFromTheLastFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, content string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	one := file("one", `{"default/key/1":"b25l","default/key/2":"dHdv","bad":"*"}`)
	two := file("two", `{"default/key/1":"dW5v"}`)
	h := New(Config{}, Deps{Broker: NewOffline([]string{one, filepath.Join(dir, "absent"), two}, nil)})
	for uri, want := range map[string]string{"kbs:///default/key/1": "uno", "kbs+any://host/default/key/2?q": "two"} {
		if b, err := h.GetResource(t.Context(), uri); err != nil || string(b) != want {
			t.Errorf("%s: got %q, %v", uri, b, err)
		}
	}
	if _, err := h.GetResource(t.Context(), "kbs:///default/key/3"); !errors.Is(err, ErrNoResource) || stage.Of(err) != stage.NotFound {
		t.Errorf("absent: got %v", err)
	}
	if _, err := h.GetResource(t.Context(), "kbs:///bad"); stage.Of(err) != stage.KBS {
		t.Errorf("not base64: got %v", err)
	}
	for i, content := range []string{"", "[]", `{"a":1}`, "{", strings.Repeat(" ", maxOffline+1)} {
		bad := file(fmt.Sprint("bad", i), content)
		if _, err := NewOffline([]string{one, bad}, nil).Resource(t.Context(), "resource", "default/key/1", ""); stage.Of(err) != stage.KBS {
			t.Errorf("%.10q: got %v", content, err)
		}
	}
}

func TestBothFormsOfAByteListAreRead(t *testing.T) {
	t.Parallel()
	packet := annotation(t, nil)
	numbers, err := json.Marshal(byteList(packet))
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{string(numbers), `"` + base64.StdEncoding.EncodeToString(packet) + `"`} {
		got, err := parseUnwrapRequest([]byte(`{"op":"keyunwrap","keywrapparams":{"ec":null,"optsdata":null},"keyunwrapparams":{"dc":{"Parameters":{"attestation-agent":["eA=="]}},"annotation":` + form + `}}`))
		if err != nil || !bytes.Equal(got, packet) {
			t.Errorf("%.20s: got %q, %v", form, got, err)
		}
	}
	out, err := unwrapResponse([]byte("{\"\xff"))
	if err != nil || string(out) != `{"keyunwrapresults":{"optsdata":[123,34,255]}}` {
		t.Errorf("response %s, %v", out, err)
	}
	if out, _ := unwrapResponse(nil); string(out) != `{"keyunwrapresults":{"optsdata":[]}}` {
		t.Errorf("empty response %s", out)
	}
}

func TestMalformedKeyProviderRequestsAreRefused(t *testing.T) {
	t.Parallel()
	const wrap = `"keywrapparams":{}`
	for _, s := range []string{
		"", "null", "{}", "[]", `{"op":"keyunwrap"}`, `{"op":"keyunwrap",` + wrap + `}`, `{` + wrap + `,"keyunwrapparams":{"annotation":"eA=="}}`,
		`{"op":"x","keyunwrapparams":{"annotation":"eA=="}}`, `{"op":"x",` + wrap + `,"keyunwrapparams":{}}`,
		`{"op":"x",` + wrap + `,"keyunwrapparams":{"annotation":""}}`, `{"op":"x",` + wrap + `,"keyunwrapparams":{"annotation":null}}`,
		`{"op":"x",` + wrap + `,"keyunwrapparams":{"annotation":"*"}}`, `{"op":"x",` + wrap + `,"keyunwrapparams":{"annotation":[256]}}`,
		`{"op":"x",` + wrap + `,"keyunwrapparams":{"annotation":[-1]}}`, `{"op":"x",` + wrap + `,"keyunwrapparams":{"annotation":[1.5]}}`,
		`{"op":"x",` + wrap + `,"keyunwrapparams":{"annotation":["1"]}}`, `{"op":1,` + wrap + `,"keyunwrapparams":{"annotation":"eA=="}}`,
		strings.Repeat(" ", maxKeyProvider+1),
	} {
		if got, err := parseUnwrapRequest([]byte(s)); !errors.Is(err, ErrKeyProvider) {
			t.Errorf("%.80s: got %q, %v", s, got, err)
		}
	}
}

func FuzzResourceURI(f *testing.F) {
	for _, s := range []string{"kbs:///a/b/c", "kbs+p://h:1/x?y=z#f", "/a/b", "kbs:///%2e%2e/x", "kbs:///a b/\u00fc"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		r, err := ParseResource(uri)
		if err != nil {
			return
		}
		again, err := ParseResource(r.String())
		if err != nil || again != r {
			t.Fatalf("%q parses as %+v, whose form %q parses as %+v, %v", uri, r, r, again, err)
		}
	})
}

func FuzzPacket(f *testing.F) {
	f.Add(annotation(f, nil))
	f.Add(annotation(f, nil, "version", "provider"))
	f.Add([]byte(`{"kid":"/a","wrapped_data":"eA==","iv":"AAAAAAAAAAAAAAAA","wrap_type":"A256GCM"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parsePacket(data)
		if err != nil {
			return
		}
		if _, err := p.open(testKEK); err != nil && !errors.Is(err, ErrUnwrap) {
			t.Fatalf("open: %v", err)
		}
	})
}

func FuzzKeyProvider(f *testing.F) {
	f.Add([]byte(`{"op":"keyunwrap","keywrapparams":{},"keyunwrapparams":{"annotation":[1,2,255]}}`))
	f.Add([]byte(`{"op":"keyunwrap","keywrapparams":{},"keyunwrapparams":{"annotation":"eA=="}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if got, err := parseUnwrapRequest(data); err == nil && len(got) == 0 {
			t.Fatal("accepted a request without annotation")
		}
	})
}
