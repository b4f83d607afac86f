// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"bytes"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"cocoon/attest"
	"cocoon/attest/tee/sample"
	"cocoon/internal/sharedtest"
	"cocoon/trustee/asapi"
	"cocoon/trustee/pki"
	"cocoon/trustee/server"
)

const openPolicy = "package policy\ntrust_claims := {\"hardware\": 2}"

func enc64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// sampleOver is sample evidence over data, as a request carries it.
func sampleOver(data []byte) string {
	return enc64(fmt.Appendf(nil, `{"svn":"1","report_data":%q}`, base64.StdEncoding.EncodeToString(data)))
}

func sha384(text string) []byte { d := sha512.Sum384([]byte(text)); return d[:] }

// rp is another relying party: it speaks to the attestation service by REST.
type rp struct {
	url  string
	http *http.Client
}

func (b *broker) rp(t testing.TB) *rp {
	t.Helper()
	return &rp{url: b.rest, http: b.guest(t).http}
}

func (p *rp) send(t testing.TB, method, path, body, bearer string) answer {
	t.Helper()
	req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), method, p.url+path, strings.NewReader(body)))
	req.Header.Set("Content-Type", "application/json")
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	res := must[*http.Response](t)(p.http.Do(req))
	defer closed(t, res.Body)
	return answer{status: res.StatusCode, body: must[[]byte](t)(io.ReadAll(res.Body)), header: res.Header}
}

// says checks an answer that is no JSON.
func (a answer) says(t testing.TB, status int, part string) {
	t.Helper()
	if a.status != status || !strings.Contains(string(a.body), part) || strings.Contains(string(a.body), "\n") {
		t.Fatalf("answer %d %.300q, want %d with %q in one line", a.status, a.body, status, part)
	}
}

// goldenRequest is a request of upstream's tests, whose TEE and evidence are
// replaced by those of the sample TEE.
func goldenRequest(t testing.TB, evidence string) string {
	t.Helper()
	var q map[string]any
	if err := json.Unmarshal(sharedtest.Read(t, "evidence/sgx/coco-as-request.json"), &q); err != nil {
		t.Fatal(err)
	}
	item := q["verification_requests"].([]any)[0].(map[string]any)
	item["tee"], item["evidence"] = "sample", evidence
	return string(must[[]byte](t)(json.Marshal(q)))
}

// payload verifies a token with the key set of the service alone.
func (p *rp) payload(t testing.TB, token string) map[string]any {
	t.Helper()
	a := p.send(t, http.MethodGet, "/.well-known/jwks.json", "", "")
	var keys jose.JSONWebKeySet
	if err := json.Unmarshal(a.body, &keys); err != nil || a.status != http.StatusOK || len(keys.Keys) != 1 {
		t.Fatalf("key set %d %s: %v", a.status, a.body, err)
	}
	if len(keys.Keys[0].Certificates) == 0 || !keys.Keys[0].IsPublic() {
		t.Fatalf("key set %s has no certificate or a secret", a.body)
	}
	jws := must[*jose.JSONWebSignature](t)(jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256}))
	var claims map[string]any
	if err := json.Unmarshal(must[[]byte](t)(jws.Verify(keys.Keys[0])), &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func cpu0(t testing.TB, claims map[string]any) (submod, evidence map[string]any) {
	t.Helper()
	submods, _ := claims["submods"].(map[string]any)
	submod, _ = submods["cpu0"].(map[string]any)
	evidence, _ = submod["ear.veraison.annotated-evidence"].(map[string]any)
	if evidence == nil {
		t.Fatalf("claims without evidence: %v", claims)
	}
	return submod, evidence
}

func TestARelyingPartyGetsATokenThatAnybodyCanVerify(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	p := b.rp(t)
	a := p.send(t, http.MethodPost, "/attestation", goldenRequest(t, sampleOver([]byte("whatever"))), "")
	if a.status != http.StatusOK {
		t.Fatalf("golden request: %d %s", a.status, a.body)
	}
	submod, evidence := cpu0(t, p.payload(t, string(a.body)))
	if submod["ear.status"] != "affirming" || submod["ear.appraisal-policy-id"] != "default" || evidence["report_data_compared"] != false {
		t.Fatalf("submodule %v", submod)
	}
	if log := b.audit.String(); !strings.Contains(log, `"event":"evaluate","decision":"token"`) || strings.Contains(log, string(a.body)) {
		t.Fatalf("audit log %s", log)
	}
	p.send(t, http.MethodGet, "/healthz", "", "").says(t, http.StatusOK, "")
	p.send(t, http.MethodPost, "/challenge", `{"tee":"sample","tee_params":""}`, "").says(t, http.StatusOK, "")
}

func TestReportDataThatDiffersIsRefusedWithTheCause(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	p := b.rp(t)
	request := func(evidence, rest string) string {
		return fmt.Sprintf(`{"verification_requests":[{"tee":"sample","evidence":%q%s}],"policy_ids":[]}`, evidence, rest)
	}
	const canonical = `{"a":"x","nonce":"N"}`
	structured := `,"runtime_data":{"structured":{ "nonce":"N", "a":"x" }},"runtime_data_hash_algorithm":"sha384"`
	raw := fmt.Sprintf(`,"runtime_data":{"raw":%q}`, enc64([]byte("N")))
	for name, body := range map[string]string{"structured": request(sampleOver(sha384(canonical)), structured), "raw": request(sampleOver([]byte("N")), raw)} {
		a := p.send(t, http.MethodPost, "/attestation", body, "")
		if a.status != http.StatusOK {
			t.Fatalf("%s: %d %s", name, a.status, a.body)
		}
		_, evidence := cpu0(t, p.payload(t, string(a.body)))
		claims, ok := evidence["runtime_data_claims"].(map[string]any)
		if ok != (name == "structured") || ok && claims["nonce"] != "N" {
			t.Fatalf("%s: evidence %v", name, evidence)
		}
	}
	for _, rest := range []string{structured, raw} {
		p.send(t, http.MethodPost, "/attestation", request(sampleOver(sha384("{}")), rest), "").says(t, http.StatusUnprocessableEntity, "report_data is not the digest")
	}
}

func TestRequestsThatAreWrongAreToldHow(t *testing.T) {
	t.Parallel()
	p := ready(t, nil).rp(t)
	one := func(member string) string { return fmt.Sprintf(`{"verification_requests":[{%s}]}`, member) }
	good := sampleOver(nil)
	for _, tc := range []struct {
		path, body string
		status     int
		part       string
	}{
		{"/attestation", `{`, 400, "parse request"},
		{"/attestation", `{}`, 400, "0 verification requests"},
		{"/attestation", one(`"tee":"sample","evidence":"%%"`), 400, "verification request 0: evidence is no base64url without padding: illegal base64"},
		{"/attestation", one(`"tee":"sample","evidence":"e30="`), 400, "without padding"},
		{"/attestation", one(`"tee":"sample","evidence":"e3"`), 400, "illegal base64"},
		{"/attestation", one(`"tee":"sample","evidence":"eA"`), 400, "no JSON"},
		{"/attestation", one(`"tee":"sample","evidence":"e30"`), 422, "svn is missing"},
		{"/attestation", one(`"tee":"enigma","evidence":"e30"`), 400, `"enigma": TEE is not supported`},
		{"/attestation", one(`"evidence":"e30"`), 400, "name of a TEE"},
		{"/attestation", one(`"tee":"sample","evidence":"` + good + `","runtime_data":{}`), 400, "raw or structured"},
		{"/attestation", one(`"tee":"sample","evidence":"` + good + `","runtime_data":{"raw":"AA","structured":{}}`), 400, "not both"},
		{"/attestation", one(`"tee":"sample","evidence":"` + good + `","runtime_data":{"raw":""}`), 400, "raw runtime data is empty"},
		{"/attestation", one(`"tee":"sample","evidence":"` + good + `","runtime_data":{"raw":"+/"}`), 400, "raw runtime data is no base64url"},
		{"/attestation", one(`"tee":"sample","evidence":"` + good + `","runtime_data":{"structured":[]}`), 400, "structured runtime data"},
		{"/attestation", one(`"tee":"sample","evidence":"` + good + `","runtime_data":{"structured":{}},"runtime_data_hash_algorithm":"md5"`), 400, `"md5"`},
		{"/attestation", one(`"tee":"sample","evidence":"` + good + `","init_data":{}`), 400, "init_data_digest or init_data_toml"},
		{"/attestation", one(`"tee":"sample","evidence":"` + good + `","init_data":{"init_data_digest":"?"}`), 400, "init_data_digest is no base64url"},
		{"/attestation", one(`"tee":"sample","evidence":"` + good + `","init_data":{"init_data_toml":""}`), 400, "init_data_toml is empty"},
		{"/attestation", one(`"tee":"sample","evidence":"` + good + `","init_data":{"init_data_toml":"="}`), 422, "invalid init data"},
		{"/attestation", `{"verification_requests":[{"tee":"sample","evidence":"` + good + `"}],"policy_ids":["strict"]}`, 404, `"strict_cpu": not found`},
		{"/attestation", `{"verification_requests":[{"tee":"sample","evidence":"` + good + `"}],"policy_ids":[""]}`, 400, "policy id"},
		{"/challenge", `{"tee":"sample"}`, 400, "tee_params is missing"},
		{"/challenge", `{"tee":"enigma","tee_params":""}`, 400, "not supported"},
	} {
		t.Run(tc.part, func(t *testing.T) {
			t.Parallel()
			p.send(t, http.MethodPost, tc.path, tc.body, "").says(t, tc.status, tc.part)
		})
	}
	start(t, func(c *server.Config) { c.AllowSample = false }).rp(t).send(t, http.MethodPost, "/attestation", one(`"tee":"sample","evidence":"`+good+`"`), "").
		says(t, http.StatusBadRequest, "--allow-sample")
}

func TestOnlyTheOperatorSetsPoliciesOfTheAttestationService(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	p, g := b.rp(t), b.attested(t)
	body := fmt.Sprintf(`{"policy_id":"mine_cpu","policy":%q}`, enc64([]byte(openPolicy)))
	for _, bearer := range []string{"", g.token, "x.y.z"} {
		p.send(t, http.MethodPost, "/policy", body, bearer).says(t, http.StatusUnauthorized, "admin")
		p.send(t, http.MethodGet, "/policy", "", bearer).says(t, http.StatusUnauthorized, "admin")
	}
	token := b.adminToken(t, 0)
	p.send(t, http.MethodPost, "/policy", body, token).says(t, http.StatusOK, "")
	p.send(t, http.MethodGet, "/policy", "", token).says(t, http.StatusOK, `{"policy-id":"mine_cpu","policy-hash":"`)
	for text, part := range map[string]string{
		`{"policy_id":"mine_cpu","policy":"%"}`:                                               "no base64url",
		`{"policy_id":"mine_cpu"}`:                                                            "policy is missing",
		`{"policy_id":"../x","policy":"` + enc64([]byte(openPolicy)) + `"}`:                   "invalid name",
		`{"policy_id":"mine_cpu","policy":"` + enc64([]byte("package policy\nx := [")) + `"}`: "does not compile",
	} {
		p.send(t, http.MethodPost, "/policy", text, token).says(t, http.StatusBadRequest, part)
	}
	a := p.send(t, http.MethodPost, "/attestation", `{"verification_requests":[{"tee":"sample","evidence":"`+sampleOver(nil)+`"}],"policy_ids":["mine","other"]}`, "")
	if submod, _ := cpu0(t, p.payload(t, string(a.body))); submod["ear.appraisal-policy-id"] != "mine" || submod["ear.status"] != "affirming" {
		t.Fatalf("submodule %v", submod)
	}
	if log := b.audit.String(); strings.Count(log, `"path":"mine_cpu"`) < 1 || !strings.Contains(log, `"policy-set"`) {
		t.Fatalf("audit log %s", log)
	}
}

func TestHugeBodiesOfRelyingPartiesAreRefused(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	p := b.rp(t)
	huge := strings.Repeat("x", asapi.MaxRequest+1)
	for _, path := range []string{"/attestation", "/challenge", "/policy"} {
		p.send(t, http.MethodPost, path, huge, b.adminToken(t, 0)).says(t, http.StatusRequestEntityTooLarge, "at most")
	}
	p.send(t, http.MethodPost, "/policy", huge, "").says(t, http.StatusUnauthorized, "admin")
	req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/attestation", io.LimitReader(zeros{}, 64<<20)))
	res, err := p.http.Do(req)
	if err != nil {
		return // cut off while it sent
	}
	defer closed(t, res.Body)
	if res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Fatalf("a body of unknown length: status %d", res.StatusCode)
	}
}

func TestATokenForAnotherPartyReleasesNoSecret(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	p, g := b.rp(t), b.guest(t)
	covered := fmt.Sprintf(`{"additional-evidence":"","nonce":"old","tee-pubkey":%s}`, g.jwk())
	a := p.send(t, http.MethodPost, "/attestation", fmt.Sprintf(`{"verification_requests":[{"tee":"sample","evidence":%q,"runtime_data":{"structured":%s}}]}`,
		sampleOver(sha384(covered)), covered), "")
	if a.status != http.StatusOK {
		t.Fatalf("attestation: %d %s", a.status, a.body)
	}
	g.token = string(a.body)
	g.byToken(t, "default/key/1").want(t, http.StatusUnauthorized, "TokenVerifierError", "another relying party")
	other := start(t, func(c *server.Config) { c.TrustedTokens = []string{filepath.Join(b.dir, pki.TokenCert)} })
	g.url = other.url
	g.http = other.guest(t).http
	g.byToken(t, "default/key/1").want(t, http.StatusUnauthorized, "TokenVerifierError", "another relying party")
}

func TestAnEvaluationThatCannotBeWrittenDownGivesNoToken(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	b.audit.fail(os.ErrPermission)
	p := b.rp(t)
	p.send(t, http.MethodPost, "/attestation", `{"verification_requests":[{"tee":"sample","evidence":"`+sampleOver(nil)+`"}]}`, "").
		says(t, http.StatusInternalServerError, "internal error")
	p.send(t, http.MethodPost, "/policy", fmt.Sprintf(`{"policy_id":"x_cpu","policy":%q}`, enc64([]byte(openPolicy))), b.adminToken(t, 0)).
		says(t, http.StatusInternalServerError, "internal error")
	if list := p.send(t, http.MethodGet, "/policy", "", b.adminToken(t, 0)); bytes.Contains(list.body, []byte("x_cpu")) {
		t.Fatalf("the policy was set: %s", list.body)
	}
}

func TestAnAttestationAgentGetsTokensOfTheService(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	agent := must[*attest.Agent](t)(attest.New(
		attest.Config{Tokens: attest.Tokens{CoCoAS: &attest.CoCoAS{URL: b.rest, Cert: string(b.ca)}}},
		attest.Deps{Attester: sample.New(), PinRoots: true, Now: b.clock.Now},
	))
	defer func() {
		if err := agent.Close(); err != nil {
			t.Error(err)
		}
	}()
	token := must[[]byte](t)(agent.Token(t.Context(), "coco_as"))
	jws := must[*jose.JSONWebSignature](t)(jose.ParseSignedCompact(string(token), []jose.SignatureAlgorithm{jose.ES256}))
	claims := string(jws.UnsafePayloadWithoutVerification())
	if !strings.Contains(claims, `"report_data_compared":false`) || !strings.Contains(claims, `"ear.cocoon.issued-for":"relying-party"`) {
		t.Errorf("claims %.600s", claims)
	}
	if _, err := agent.Token(t.Context(), "kbs"); !errors.Is(err, attest.ErrNoKBS) {
		t.Errorf("a token of no broker: %v", err)
	}
}
