// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// guest is a client of the handshake, written from the protocol alone.
type guest struct {
	url    string
	http   *http.Client
	key    *ecdsa.PrivateKey
	point  []byte // the public half, uncompressed
	cookie string
	nonce  string
	token  string
}

func (b *broker) guest(t testing.TB) *guest {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b.ca) {
		t.Fatal("no CA")
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(tr.CloseIdleConnections)
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	point := must[[]byte](t)(key.PublicKey.Bytes())
	return &guest{url: b.url, http: &http.Client{Transport: tr}, key: key, point: point}
}

// answer is what came back.
type answer struct {
	status int
	body   []byte
	header http.Header
}

// problem returns the last part of the type and the detail of an error answer.
func (a answer) problem(t testing.TB) (variant, detail string) {
	t.Helper()
	var p struct{ Type, Detail string }
	if err := json.Unmarshal(a.body, &p); err != nil {
		t.Fatalf("status %d with a body that is no problem: %q", a.status, a.body)
	}
	variant, ok := strings.CutPrefix(p.Type, "https://github.com/confidential-containers/kbs/errors/")
	if !ok || p.Detail == "" {
		t.Fatalf("problem %q without type or detail", a.body)
	}
	return variant, p.Detail
}

// want checks an error answer.
func (a answer) want(t testing.TB, status int, variant, part string) {
	t.Helper()
	v, detail := a.problem(t)
	if a.status != status || v != variant || !strings.Contains(detail, part) {
		t.Fatalf("answer %d %s %q, want %d %s with %q", a.status, v, detail, status, variant, part)
	}
}

type request struct {
	method, path string
	body         []byte
	bearer       string
	cookie       string
}

func (g *guest) send(t testing.TB, q request) answer {
	t.Helper()
	req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), q.method, g.url, bytes.NewReader(q.body)))
	req.URL.Opaque = q.path // as it is, without normalisation
	if strings.HasPrefix(q.path, "/") {
		req.URL.Opaque = "//" + req.URL.Host + q.path
	}
	req.Header.Set("Content-Type", "application/json")
	if q.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+q.bearer)
	}
	if q.cookie != "" {
		req.Header.Set("Cookie", "kbs-session-id="+q.cookie)
	}
	res := must[*http.Response](t)(g.http.Do(req))
	defer func() { _ = res.Body.Close() }()
	return answer{status: res.StatusCode, body: must[[]byte](t)(io.ReadAll(res.Body)), header: res.Header}
}

func (g *guest) auth(t testing.TB, version, tee string) answer {
	t.Helper()
	body := fmt.Sprintf(`{"version":%q,"tee":%q,"extra-params":{"supported-hash-algorithms":["sha256","sha384"]}}`, version, tee)
	a := g.send(t, request{method: http.MethodPost, path: "/kbs/v0/auth", body: []byte(body)})
	if a.status == http.StatusOK {
		var c struct {
			Nonce string          `json:"nonce"`
			Extra json.RawMessage `json:"extra-params"`
		}
		if err := json.Unmarshal(a.body, &c); err != nil || string(c.Extra) != `""` {
			t.Fatalf("challenge %s: %v", a.body, err)
		}
		g.nonce = c.Nonce
		set, _, _ := strings.Cut(a.header.Get("Set-Cookie"), ";")
		g.cookie = strings.TrimPrefix(set, "kbs-session-id=")
	}
	return a
}

func (g *guest) jwk() string {
	enc := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf(`{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":%q,"y":%q}`, enc(g.point[1:33]), enc(g.point[33:]))
}

// attempt is one POST /attest, of which tests change parts.
type attempt struct {
	cookie, nonce, jwk string
	covered            string // the text that report_data is the digest of
	svn                string
	primary            string // replaces the evidence
	additional         string
	initData           string
}

func (g *guest) attempt() *attempt {
	a := &attempt{cookie: g.cookie, nonce: g.nonce, jwk: g.jwk(), svn: "1", initData: "null"}
	a.cover()
	return a
}

func (a *attempt) cover() {
	text, _ := json.Marshal(a.additional)
	a.covered = fmt.Sprintf(`{"additional-evidence":%s,"nonce":%q,"tee-pubkey":%s}`, text, a.nonce, a.jwk)
}

func evidence(svn, covered string) string {
	d := sha512.Sum384([]byte(covered))
	return fmt.Sprintf(`{"svn":%q,"report_data":%q}`, svn, base64.StdEncoding.EncodeToString(d[:]))
}

func (g *guest) attest(t testing.TB, a *attempt) answer {
	t.Helper()
	primary := a.primary
	if primary == "" {
		primary = evidence(a.svn, a.covered)
	}
	body := fmt.Sprintf(`{"init-data":%s,"runtime-data":{"nonce":%q,"tee-pubkey":%s},"tee-evidence":{"primary_evidence":%s,"additional_evidence":%q}}`,
		a.initData, a.nonce, a.jwk, primary, a.additional)
	res := g.send(t, request{method: http.MethodPost, path: "/kbs/v0/attest", body: []byte(body), cookie: a.cookie})
	if res.status == http.StatusOK {
		var tok struct{ Token string }
		if err := json.Unmarshal(res.body, &tok); err != nil || tok.Token == "" {
			t.Fatalf("token answer %q: %v", res.body, err)
		}
		g.token = tok.Token
	}
	return res
}

// attested runs the whole handshake.
func (b *broker) attested(t testing.TB) *guest {
	t.Helper()
	g := b.guest(t)
	if a := g.auth(t, "0.4.0", "sample"); a.status != http.StatusOK {
		t.Fatalf("auth: %d %s", a.status, a.body)
	}
	if a := g.attest(t, g.attempt()); a.status != http.StatusOK {
		t.Fatalf("attest: %d %s", a.status, a.body)
	}
	return g
}

// byToken and bySession fetch a resource in the two ways of the protocol.
func (g *guest) byToken(t testing.TB, path string) answer {
	t.Helper()
	return g.send(t, request{method: http.MethodGet, path: "/kbs/v0/resource/" + path, bearer: g.token})
}

func (g *guest) bySession(t testing.TB, path string) answer {
	t.Helper()
	return g.send(t, request{method: http.MethodGet, path: "/kbs/v0/resource/" + path, cookie: g.cookie})
}

func (g *guest) open(t testing.TB, a answer) string {
	t.Helper()
	if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/json" {
		t.Fatalf("resource: %d %s", a.status, a.body)
	}
	jwe := must[*jose.JSONWebEncryption](t)(jose.ParseEncryptedJSON(string(a.body), []jose.KeyAlgorithm{jose.ECDH_ES_A256KW}, []jose.ContentEncryption{jose.A256GCM}))
	return string(must[[]byte](t)(jwe.Decrypt(g.key)))
}

// claims decodes the payload of the guest's token.
func (g *guest) claims(t testing.TB) map[string]any {
	t.Helper()
	parts := strings.Split(g.token, ".")
	if len(parts) != 3 {
		t.Fatalf("token of %d parts", len(parts))
	}
	var c map[string]any
	if err := json.Unmarshal(must[[]byte](t)(base64.RawURLEncoding.DecodeString(parts[1])), &c); err != nil {
		t.Fatal(err)
	}
	return c
}
