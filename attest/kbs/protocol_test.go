// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gowebpki/jcs"

	"cocoon/internal/sharedtest"
)

const vectorNonce = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

func hashNamed(t *testing.T, name string) hashAlgorithm {
	t.Helper()
	for _, h := range hashAlgorithms() {
		if h.name == name {
			return h
		}
	}
	t.Fatalf("no hash algorithm %q", name)
	return hashAlgorithm{}
}

func TestTheDigestsAreThoseOfTheProtocolsExample(t *testing.T) {
	t.Parallel()
	rd := runtimeData{Nonce: vectorNonce, PubKey: vectorKey(t).public()}
	const canonical = `{"additional-evidence":"","nonce":"` + vectorNonce + `","tee-pubkey":{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"` + vectorX + `","y":"` + vectorY + `"}}`
	if got, err := jcs.Transform(mustJSON(boundData{runtimeData: rd})); err != nil || string(got) != canonical {
		t.Errorf("canonical form is %s, %v; want %s", got, err, canonical)
	}
	var upstream any
	if err := json.Unmarshal([]byte(`{"b":1,"a":"test","c":{"d":"e"}}`), &upstream); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		hash string
		v    any
		want string
	}{
		"primary sha256": {"sha256", boundData{runtimeData: rd}, "38ad3c101f3cae90a4641ece05461a5b0a9a031e1325d559b24dac7107330f54"},
		"primary sha384": {"sha384", boundData{runtimeData: rd}, "98fbb5aa1eeca48969ff3f25de8a109c9aec97e0e7fb52b3b9806f07b1ad7affdb04257755d3f0e88d4dbe4b0e87a567"},
		"primary sha512": {"sha512", boundData{runtimeData: rd}, "69035b24601332a2684eb7a0e150d79f2081e1c382af776d58943d1d41a77bfcfcf373d370f5cc6354b692eab6d7700d0c22cbfdd6e170a30d97c806c1ffd7d9"},
		"device sha384":  {"sha384", rd, "9c74114334915b2fd63ba1248b3010984842dcedff68fc51474de852befb020372b3d270d45a4bf8792c2019c7882651"},
		"other object":   {"sha384", upstream, "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c4597480a186427c813ca941da78870c3"},
	} {
		got, err := canonicalDigest(hashNamed(t, tc.hash), tc.v)
		if err != nil || hex.EncodeToString(got) != tc.want {
			t.Errorf("%s: %x, %v; want %s", name, got, err, tc.want)
		}
	}
}

func TestASecureExecutionRequestGetsTheDigestInside(t *testing.T) {
	t.Parallel()
	ch := challenge{nonce: `{"request_blob":"QUI=","measurement_size":64}`, hash: hashNamed(t, "sha512")}
	got, err := primaryInput("se", ch, boundData{runtimeData: runtimeData{Nonce: ch.nonce}})
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Blob   string `json:"request_blob"`
		Size   int    `json:"measurement_size"`
		Digest []byte `json:"runtime_data_digest"`
	}
	if err := json.Unmarshal(got, &m); err != nil || m.Blob != "QUI=" || m.Size != 64 || len(m.Digest) != 64 {
		t.Errorf("input is %s, %v", got, err)
	}
	for _, nonce := range []string{"abc", "null", "[]", `"x"`} {
		ch.nonce = nonce
		if _, err := primaryInput("se", ch, boundData{}); err == nil {
			t.Errorf("nonce %s was taken for a request", nonce)
		}
	}
}

func TestAChallengeIsParsedStrictly(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{ // to the hash, "" for an error
		`{"nonce":"a","extra-params":""}`:                                   "sha384",
		`{"nonce":"a","extra-params":null}`:                                 "sha384",
		`{"nonce":"a"}`:                                                     "sha384",
		`{"nonce":"a","extra-params":{}}`:                                   "sha384",
		`{"nonce":"a","extra-params":{"selected-hash-algorithm":"sha512"}}`: "sha512",
		`{"nonce":"a","extra-params":{"selected-hash-algorithm":"sha256"}}`: "sha256",
		`{"nonce":"a","extra-params":{"selected-hash-algorithm":"sm3"}}`:    "",
		`{"nonce":"a","extra-params":{"selected-hash-algorithm":""}}`:       "",
		`{"nonce":"a","extra-params":{"selected-hash-algorithm":null}}`:     "",
		`{"nonce":"a","extra-params":{"selected-hash-algorithm":384}}`:      "",
		`{"nonce":"a","extra-params":"sha512"}`:                             "",
		`{"nonce":"a","extra-params":[]}`:                                   "",
		`{"nonce":"","extra-params":""}`:                                    "",
		`{"nonce":7,"extra-params":""}`:                                     "",
		`{"nonce":null,"extra-params":""}`:                                  "",
		`{"nonce":"\ud800","extra-params":""}`:                              "",
		"{\"nonce\":\"\xff\",\"extra-params\":\"\"}":                        "",
		`{"nonce":"a"} {}`:                                                  "",
		``:                                                                  "",
	} {
		ch, err := parseChallenge([]byte(body))
		if want == "" {
			if err == nil {
				t.Errorf("%s: no error", body)
			}
		} else if err != nil || ch.hash.name != want || ch.nonce != "a" {
			t.Errorf("%s: %+v, %v; want %s", body, ch, err, want)
		}
	}
}

func TestNonceMemoryIsBounded(t *testing.T) {
	t.Parallel()
	m := newNonceMemory()
	for i := range 3 * rememberedNonces {
		if err := m.use(strings.Repeat("a", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	if len(m.seen) != rememberedNonces {
		t.Errorf("%d nonces kept, want %d", len(m.seen), rememberedNonces)
	}
	if m.use(strings.Repeat("a", 3*rememberedNonces)) == nil {
		t.Error("the latest nonce was forgotten")
	}
}

func TestResourcePathsFollowTheBrokersRules(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]string{ // to plugin|path|query, "" for an error
		"kbs:///default/key/1":                  "resource|default/key/1|",
		"kbs://kbs.example.com:8080/a/b/c?x=1":  "resource|a/b/c|x=1",
		"kbs+pkcs11:///wrap-key":                "pkcs11|wrap-key|",
		"kbs+nebula-ca://h/a/b/c/d?name=p&ip=1": "nebula-ca|a/b/c/d|name=p&ip=1",
		"kbs:///a/b":                            "",
		"kbs:///a/b/c/d":                        "",
		"kbs:///a//c":                           "",
		"kbs:///a/../c":                         "",
		"kbs:///a/.b/c":                         "",
		"kbs:///a/b/c%2Fd":                      "",
		"kbs:///a/b/c d":                        "",
		"kbs:///a/b/c#d":                        "",
		"kbs://user@h/a/b/c":                    "",
		"kbs:a/b/c":                             "",
		"kbs+:///a/b/c":                         "",
		"https://h/a/b/c":                       "",
		"/a/b/c":                                "",
		"kbs:///a/b/" + strings.Repeat("c", maxPath): "",
	} {
		p, err := ParseURI(uri)
		if want == "" {
			if err == nil {
				t.Errorf("%.80s: taken as %v", uri, p)
			}
			continue
		}
		if got := p.Plugin() + "|" + p.Path() + "|" + p.Query(); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", uri, got, err, want)
		}
	}
	for _, bad := range [][3]string{{"../x", "a/b/c", ""}, {"resource", "a/b", ""}, {"resource", "a/b/ü", ""}, {"resource", "a/b/c", "x y"}, {"resource", "a/b/c", "x#y"}, {"p", "", ""}} {
		if p, err := NewResourcePath(bad[0], bad[1], bad[2]); err == nil {
			t.Errorf("%q: taken as %v", bad, p)
		}
	}
}

func TestAConfigurationThatCannotWorkIsRefused(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	good := Config{URL: "https://127.0.0.1:1", RootCertsPEM: ca.pem}
	for name, edit := range map[string]func(*Config){
		"no url":        func(c *Config) { c.URL = "" },
		"other scheme":  func(c *Config) { c.URL = "ftp://h" },
		"no host":       func(c *Config) { c.URL = "https://:8080" },
		"credentials":   func(c *Config) { c.URL = "https://u:secret@h" },
		"query":         func(c *Config) { c.URL = "https://h?x" },
		"fragment":      func(c *Config) { c.URL = "https://h#x" },
		"control char":  func(c *Config) { c.URL = "https://h\x00" },
		"key algorithm": func(c *Config) { c.TEEKeyAlgorithm = "RSA1_5" },
		"root not PEM":  func(c *Config) { c.RootCertsPEM = []byte("/etc/ca.pem") },
		"root half PEM": func(c *Config) { c.RootCertsPEM = append(ca.pem[:len(ca.pem):len(ca.pem)], "junk"...) },
		"root not a cert": func(c *Config) {
			c.RootCertsPEM = []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
		},
		"root a key": func(c *Config) {
			c.RootCertsPEM = []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
		},
		"roots too large":  func(c *Config) { c.RootCertsPEM = make([]byte, maxRootsPEM+1) },
		"pinned, no roots": func(c *Config) { c.PinRoots, c.RootCertsPEM = true, nil },
		"initdata":         func(c *Config) { c.InitData = []byte{0xff} },
	} {
		cfg := good
		edit(&cfg)
		if _, err := New(cfg, &prover{}); err == nil {
			t.Errorf("%s: no error", name)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error %q holds the password", name, err)
		}
	}
	if _, err := New(good, nil); err == nil {
		t.Error("no source of evidence: no error")
	}
	if _, err := New(good, &prover{}); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

func FuzzParseChallenge(f *testing.F) {
	f.Add([]byte(`{"nonce":"` + vectorNonce + `","extra-params":""}`))
	f.Add([]byte(`{"nonce":"a","extra-params":{"selected-hash-algorithm":"sha512"}}`))
	f.Add([]byte(`{"nonce":"\ud800"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		ch, err := parseChallenge(body)
		if err != nil {
			return
		}
		// What is accepted must survive the way back to the broker.
		var back runtimeData
		if err := json.Unmarshal(mustJSON(runtimeData{Nonce: ch.nonce}), &back); err != nil || back.Nonce != ch.nonce || ch.nonce == "" {
			t.Errorf("nonce %q came back as %q, %v", ch.nonce, back.Nonce, err)
		}
		if _, err := canonicalDigest(ch.hash, boundData{runtimeData: back}); err != nil {
			t.Errorf("nonce %q cannot be bound: %v", ch.nonce, err)
		}
	})
}

func FuzzParseAttestResponse(f *testing.F) {
	f.Add([]byte(`{"token":"a.b.c"}`))
	f.Add([]byte(`{"token":7}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if jwt, err := parseAttestResponse(body); err == nil && jwt == "" {
			t.Error("an empty token was accepted")
		}
	})
}

func FuzzParseToken(f *testing.F) {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	f.Add(part(`{"alg":"ES256"}`) + "." + part(`{"exp":1760426434,"nbf":1}`) + ".AA")
	f.Add(part(`{"alg":"none"}`) + "." + part(`{"exp":1760426434}`) + ".")
	f.Add(part(`{"alg":"ES256"}`) + "." + part(`{"exp":-1e9}`) + ".AA")
	f.Add("..")
	f.Fuzz(func(t *testing.T, jwt string) {
		c, err := parseToken(jwt)
		if err != nil {
			return
		}
		if strings.ContainsAny(jwt, "\r\n ,") {
			t.Errorf("token %q would not fit in a header", jwt)
		}
		if c.expiry.Before(time.Unix(0, 0)) || c.expiry.Unix() > maxUnix {
			t.Errorf("expiry is %v", c.expiry)
		}
	})
}

func FuzzParseProblem(f *testing.F) {
	f.Add(401, []byte(`{"type":"https://github.com/confidential-containers/kbs/errors/PolicyDeny","detail":"no"}`))
	f.Add(500, []byte("a\x1b[2J\n\xff"))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		s := parseProblem(status, body).Error()
		if len(s) > maxDetail+200 || strings.ContainsAny(s, "\n\r\x1b\x00") {
			t.Errorf("text is not one bounded line: %q", s)
		}
	})
}

func FuzzParseURI(f *testing.F) {
	for _, uri := range []string{"kbs:///default/key/1", "kbs+pkcs11://h/a/b?x=1", "kbs:///a/..%2f/c", "kbs:///a/b/c#x"} {
		f.Add(uri)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		p, err := ParseURI(uri)
		if err != nil {
			return
		}
		u := "https://kbs.example.com" + basePath + p.Plugin() + "/" + p.Path()
		if strings.Contains(u, "..") && strings.Contains(u, "/..") || strings.ContainsAny(p.Path()+p.Query(), "#\r\n \\") || strings.ContainsAny(p.Path(), "?%") {
			t.Errorf("%q gives path %q and query %q", uri, p.Path(), p.Query())
		}
		if again, err := NewResourcePath(p.Plugin(), p.Path(), p.Query()); err != nil || again != p {
			t.Errorf("%q: %+v is refused as %+v, %v", uri, p, again, err)
		}
	})
}

func TestTheClaimsOfARealTokenAreRead(t *testing.T) {
	t.Parallel()
	part := func(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
	payload := sharedtest.Read(t, "evidence/token/example.token.json")
	jwt := part([]byte(`{"typ":"JWT","alg":"ES256"}`)) + "." + part(payload) + ".AA"
	var want struct {
		Exp int64 `json:"exp"`
	}
	if err := json.Unmarshal(payload, &want); err != nil {
		t.Fatal(err)
	}
	if c, err := parseToken(jwt); err != nil || c.expiry.Unix() != want.Exp || want.Exp == 0 {
		t.Errorf("got %+v, %v; want expiry %d", c, err, want.Exp)
	}
}

func TestCookiesAreBounded(t *testing.T) {
	t.Parallel()
	session := &http.Cookie{Name: sessionCookie, Value: "1"}
	for name, tc := range map[string]struct {
		cookies []*http.Cookie
		ok      bool
	}{
		"session":       {[]*http.Cookie{session}, true},
		"and another":   {[]*http.Cookie{{Name: "route", Value: "a"}, session}, true},
		"none":          {nil, false},
		"only another":  {[]*http.Cookie{{Name: "route", Value: "a"}}, false},
		"empty session": {[]*http.Cookie{{Name: sessionCookie}}, false},
		"too large":     {[]*http.Cookie{{Name: sessionCookie, Value: strings.Repeat("a", maxCookieBytes)}}, false},
		"too many":      {slices.Repeat([]*http.Cookie{session}, maxCookies+1), false},
	} {
		if err := checkCookies(tc.cookies); (err == nil) != tc.ok {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
