// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/gowebpki/jcs"
)

// broker is a key broker that speaks the protocol over TLS and checks what it
// is sent. A test replaces the handler of one step to make it hostile.
type broker struct {
	t      testing.TB
	srv    *httptest.Server
	roots  []byte
	signer *ecdsa.PrivateKey

	mu       sync.Mutex
	sessions map[string]string          // cookie -> nonce
	keys     map[string]json.RawMessage // token -> TEE key
	requests map[string]int             // first path segment -> count
	secrets  map[string]string
	initData string        // body of the last attest request
	life     time.Duration // of tokens
	now      func() time.Time
	replace  map[string]http.HandlerFunc
}

func newBroker(t testing.TB) *broker {
	t.Helper()
	ca := newCA(t)
	b := unstarted(t)
	b.start(ca, ca.leaf(t, time.Now().Add(time.Hour)))
	return b
}

func unstarted(t testing.TB) *broker {
	t.Helper()
	return &broker{
		t: t, signer: newECKey(t),
		sessions: map[string]string{}, keys: map[string]json.RawMessage{}, requests: map[string]int{},
		secrets: map[string]string{"resource/default/key/1": "hello"},
		life:    5 * time.Minute, now: time.Now, replace: map[string]http.HandlerFunc{},
	}
}

func (b *broker) start(ca authority, leaf tls.Certificate) {
	b.srv = httptest.NewUnstartedServer(http.HandlerFunc(b.serve))
	b.srv.TLS = &tls.Config{Certificates: []tls.Certificate{leaf}}
	b.srv.Config.ErrorLog = discardLog()
	b.srv.StartTLS()
	b.roots = ca.pem
	b.t.Cleanup(b.srv.Close)
}

func (b *broker) config() Config {
	return Config{
		URL: b.srv.URL, RootCertsPEM: b.roots, PinRoots: true,
		HTTPTimeout: 5 * time.Second, Deadline: 10 * time.Second,
	}
}

func (b *broker) count(step string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.requests[step]
}

func (b *broker) override(step string, h http.HandlerFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.replace[step] = h
}

func (b *broker) serve(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, "/kbs/v0/")
	if !ok {
		http.Error(w, "no such page", http.StatusTeapot)
		return
	}
	step, _, _ := strings.Cut(path, "/")
	b.mu.Lock()
	b.requests[step]++
	h := b.replace[step]
	b.mu.Unlock()
	switch {
	case h != nil:
		h(w, r)
	case step == "auth":
		b.auth(w, r)
	case step == "attest":
		b.attest(w, r)
	default:
		b.resource(w, r, path)
	}
}

func problem(w http.ResponseWriter, status int, name, detail string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"type":"https://github.com/confidential-containers/kbs/errors/%s","detail":%s}`, name, quote(detail))
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		panic(err)
	}
}

func (b *broker) auth(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Version, TEE string
		Extra        struct {
			Hashes []string `json:"supported-hash-algorithms"`
		} `json:"extra-params"`
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil || req.Version != "0.4.0" || len(req.Extra.Hashes) == 0 ||
		r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
		problem(w, 401, "AttestationError", fmt.Sprintf("bad auth request %+v: %v", req, err))
		return
	}
	nonce := base64.StdEncoding.EncodeToString(randomBytes(32))
	b.challenge(w, nonce, "")
}

func (b *broker) challenge(w http.ResponseWriter, nonce string, extra any) {
	id := hex.EncodeToString(randomBytes(16))
	b.mu.Lock()
	b.sessions[id] = nonce
	b.mu.Unlock()
	// A cookie that expired long ago stands for a guest whose clock is wrong.
	http.SetCookie(w, &http.Cookie{Name: "kbs-session-id", Value: id, Expires: time.Unix(1000000000, 0)})
	answerJSON(w, map[string]any{"nonce": nonce, "extra-params": extra})
}

func (b *broker) attest(w http.ResponseWriter, r *http.Request) {
	key, why := b.verify(r)
	if why != "" {
		problem(w, 401, "AttestationError", why)
		return
	}
	token := b.token(map[string]any{"exp": b.now().Add(b.life).Unix(), "tee-pubkey": key}, nil)
	b.mu.Lock()
	b.keys[token] = key
	b.mu.Unlock()
	w.Header()["Content-Type"] = nil // some brokers name none
	fmt.Fprintf(w, `{"token":%q}`, token)
}

// verify computes what the evidence must cover from the text that came in, not
// by the code under test.
func (b *broker) verify(r *http.Request) (key json.RawMessage, why string) {
	var req struct {
		InitData *struct{ Format, Body string } `json:"init-data"`
		Runtime  struct {
			Nonce string
			Key   json.RawMessage `json:"tee-pubkey"`
		} `json:"runtime-data"`
		Evidence struct {
			Primary struct {
				ReportData string `json:"report_data"`
			} `json:"primary_evidence"`
			Additional string `json:"additional_evidence"`
		} `json:"tee-evidence"`
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return nil, "attest request: " + err.Error()
	}
	cookie, err := r.Cookie("kbs-session-id")
	if err != nil {
		return nil, "no session"
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if nonce, ok := b.sessions[cookie.Value]; !ok || nonce != req.Runtime.Nonce {
		return nil, "wrong nonce"
	}
	delete(b.sessions, cookie.Value)
	bound, err := jcs.Transform(fmt.Appendf(nil, `{"tee-pubkey":%s,"nonce":%s,"additional-evidence":%s}`,
		req.Runtime.Key, quote(req.Runtime.Nonce), quote(req.Evidence.Additional)))
	if err != nil {
		return nil, err.Error()
	}
	want := sha512.Sum384(bound)
	got, err := base64.StdEncoding.DecodeString(req.Evidence.Primary.ReportData)
	if err != nil || !bytes.Equal(got, want[:]) {
		return nil, "evidence covers other data"
	}
	if req.InitData != nil && req.InitData.Format == "toml" {
		b.initData = req.InitData.Body
	}
	return req.Runtime.Key, ""
}

func (b *broker) token(claims, header map[string]any) string {
	h := map[string]any{"typ": "JWT", "alg": "ES256"}
	for k, v := range header {
		h[k] = v
	}
	signed := base64.RawURLEncoding.EncodeToString(mustJSON(h)) + "." + base64.RawURLEncoding.EncodeToString(mustJSON(claims))
	d := sha512.Sum512_256([]byte(signed)) // the client does not verify
	sig, err := ecdsa.SignASN1(rand.Reader, b.signer, d[:])
	if err != nil {
		panic(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func (b *broker) resource(w http.ResponseWriter, r *http.Request, path string) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	b.mu.Lock()
	key, known := b.keys[token]
	secret, found := b.secrets[path]
	b.mu.Unlock()
	switch {
	case len(r.Cookies()) > 0:
		problem(w, 401, "TokenNotFound", "a cookie came along")
	case !ok || !known:
		problem(w, 401, "TokenVerifierError", "unknown token")
	case !found:
		problem(w, 401, "PluginInternalError", "no "+path)
	default:
		w.Header().Set("Content-Type", "application/json")
		if _, err := io.WriteString(w, seal(key, secret, nil)); err != nil {
			panic(err)
		}
	}
}

// forget drops all tokens, as a broker does that starts anew.
func (b *broker) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.keys)
}

// seal encrypts with the same library that some brokers use.
func seal(key json.RawMessage, secret string, opts *jose.EncrypterOptions) string {
	var k jose.JSONWebKey
	if err := k.UnmarshalJSON(key); err != nil {
		panic(err)
	}
	e, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.KeyAlgorithm(k.Algorithm), Key: k.Key}, opts)
	if err != nil {
		panic(err)
	}
	obj, err := e.Encrypt([]byte(secret))
	if err != nil {
		panic(err)
	}
	return obj.FullSerialize()
}

// prover is a sample TEE.
type prover struct {
	mu    sync.Mutex
	calls int
	gate  chan struct{} // if set, evidence waits for it
	err   error
	raw   json.RawMessage
}

func (p *prover) TEE() string { return "sample" }

func (p *prover) Evidence(ctx context.Context, data []byte) (json.RawMessage, error) {
	p.mu.Lock()
	p.calls++
	p.mu.Unlock()
	if p.gate != nil {
		select {
		case <-p.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if p.err != nil || p.raw != nil {
		return p.raw, p.err
	}
	return json.Marshal(map[string]any{"svn": "1", "report_data": data})
}

// deviceProver has a device too.
type deviceProver struct {
	prover
	text string
	got  []byte
}

func (p *deviceProver) AdditionalEvidence(_ context.Context, data []byte) ([]byte, error) {
	p.got = data
	return []byte(p.text), nil
}

func newClient(t testing.TB, cfg Config, ev Evidencer) *Client {
	t.Helper()
	c, err := New(cfg, ev)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	c.retry.first = time.Millisecond
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newCA(t testing.TB) authority {
	t.Helper()
	key := newECKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a authority) leaf(t testing.TB, notAfter time.Time, names ...string) tls.Certificate {
	t.Helper()
	key := newECKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kbs"}, DNSNames: names,
		NotBefore: time.Unix(0, 0), NotAfter: notAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if len(names) == 0 {
		tmpl.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func newECKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
