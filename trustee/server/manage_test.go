// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"cocoon/trustee/admin"
	"cocoon/trustee/rvps"
	"cocoon/trustee/server"
	"cocoon/trustee/store"
)

// adminToken is a token of the operator made age ago and valid for a minute.
func (b *broker) adminToken(t testing.TB, age time.Duration) string {
	t.Helper()
	return must[string](t)(admin.NewToken(b.key, b.clock.Now().Add(-age), time.Minute))
}

// signed is a token with any claims.
func signed(t testing.TB, key ed25519.PrivateKey, claims string) string {
	t.Helper()
	s := must[jose.Signer](t)(jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: key}, nil))
	jws := must[*jose.JSONWebSignature](t)(s.Sign([]byte(claims)))
	return must[string](t)(jws.CompactSerialize())
}

func TestOnlyTheOperatorAdministers(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	g := b.attested(t)
	bad := map[string]string{
		"no token":       "",
		"attested guest": g.token,
		"another key":    must[string](t)(admin.NewToken(other, time.Now(), time.Hour)),
		"expired":        b.adminToken(t, time.Hour),
		"of tomorrow":    b.adminToken(t, -24*time.Hour),
		"without exp":    signed(t, b.key, `{"role":"admin"}`),
		"lesser role":    signed(t, b.key, `{"exp":99999999999,"role":"reader"}`),
		"no claims":      signed(t, b.key, `x`),
		"alg none":       enc(`{"alg":"none"}`) + "." + enc(`{"exp":99999999999}`) + ".",
		"garbage":        "x.y.z",
	}
	calls := []request{
		{method: http.MethodPost, path: "/kbs/v0/resource/a/b/c", body: []byte("x")},
		{method: http.MethodDelete, path: "/kbs/v0/resource/default/key/1"},
		{method: http.MethodPost, path: "/kbs/v0/resource-policy", body: []byte(`{"policy":""}`)},
		{method: http.MethodGet, path: "/kbs/v0/resource-policy"},
		{method: http.MethodPost, path: "/kbs/v0/attestation-policy", body: []byte(`{}`)},
		{method: http.MethodPost, path: "/kbs/v0/reference-value", body: []byte(`{}`)},
		{method: http.MethodGet, path: "/kbs/v0/reference-value/svn"},
		{method: http.MethodGet, path: "/kbs/v0/reference-value"},
		{method: http.MethodGet, path: "/kbs/v0/admin/resources"},
		{method: http.MethodGet, path: "/kbs/v0/admin/resource/default/key/1"},
		{method: http.MethodGet, path: "/kbs/v0/admin/resource-policy"},
		{method: http.MethodGet, path: "/kbs/v0/admin/attestation-policy/default_cpu"},
		{method: http.MethodGet, path: "/kbs/v0/admin/attestation-policies"},
		{method: http.MethodGet, path: "/kbs/v0/admin/reference-values"},
		{method: http.MethodDelete, path: "/kbs/v0/admin/reference-value/svn"},
	}
	for name, token := range bad {
		for _, q := range calls {
			q.bearer, q.cookie = token, g.cookie
			a := g.send(t, q)
			if v, _ := a.problem(t); a.status != http.StatusUnauthorized || v != "AdminAuthAccess" {
				t.Errorf("%s: %s %s answers %d %s", name, q.method, q.path, a.status, a.body)
			}
		}
	}
	if got := g.open(t, g.byToken(t, "default/key/1")); got != secretText {
		t.Fatalf("the secret changed: %q", got)
	}
}

// The tool that encrypts images registers its keys with a token that has no
// role, valid for two hours.
func TestAKeyIsRegisteredAsTheEncryptingToolDoes(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	g := b.attested(t)
	token := signed(t, b.key, `{"iat":1700000000,"nbf":1700000000,"exp":99999999999}`)
	kek := bytes.Repeat([]byte{0, 0xff}, 16)
	a := g.send(t, request{method: http.MethodPost, path: "/kbs/v0/resource/default/image-kek/0c1d", body: kek, bearer: token})
	if a.status != http.StatusOK || len(a.body) != 0 {
		t.Fatalf("answer %d %q", a.status, a.body)
	}
	if got := g.open(t, g.byToken(t, "default/image-kek/0c1d")); got != string(kek) {
		t.Fatalf("got %x", got)
	}
}

func TestTheOperatorManagesSecrets(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	ctx := t.Context()
	if err := b.admin.SetResource(ctx, "a/b/c.d", nil); err != nil {
		t.Fatal(err)
	}
	names, err := b.admin.Resources(ctx)
	if err != nil || !slices.Equal(names, []string{"a/b/c.d", "default/key/1"}) {
		t.Fatalf("names %q, error %v", names, err)
	}
	raw, err := b.admin.Resource(ctx, "default/key/1")
	if err != nil || string(raw) != secretText {
		t.Fatalf("got %q, error %v", raw, err)
	}
	if err := b.admin.DeleteResource(ctx, "default/key/1"); err != nil {
		t.Fatal(err)
	}
	if err := b.admin.DeleteResource(ctx, "default/key/1"); !errors.Is(err, admin.ErrNotFound) {
		t.Fatalf("second removal: %v", err)
	}
	if _, err := b.admin.Resource(ctx, "default/key/1"); !errors.Is(err, admin.ErrNotFound) {
		t.Fatalf("after removal: %v", err)
	}
	g := b.attested(t)
	g.byToken(t, "default/key/1").want(t, http.StatusNotFound, "PluginInternalError", "not found")
	for _, path := range []string{"a/b", "a/b/c/d", "../b/c", "a/b/.c", "a/b/c?x"} {
		if err := b.admin.SetResource(ctx, path, []byte("x")); err == nil && path != "a/b/c?x" {
			t.Errorf("path %q was accepted", path)
		}
	}
}

func TestTheOperatorManagesPolicies(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	ctx := t.Context()
	g := b.attested(t)
	for _, bad := range []string{
		"", "allow := true", "package other\nallow := true", "package policy\nallow {", "package policy\nallow := http.send({})",
		"package policy\nallow if net.lookup_ip_addr(\"x\")", "package policy\nx := opa.runtime()", "package policy\nimport data.other.x\nallow if unknown(1)",
	} {
		if err := b.admin.SetResourcePolicy(ctx, bad); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("policy %q: error %v, want one line", bad, err)
		}
	}
	if got := g.open(t, g.byToken(t, "default/key/1")); got != secretText {
		t.Fatalf("a bad policy took effect: %q", got)
	}
	for policy, allowed := range map[string]bool{
		"package policy\ndefault allow := false":                       false,
		"package policy\nallow := \"true\"":                            false,
		"package policy\nallow := 1":                                   false,
		"package policy\nother := true":                                false,
		"package policy\nallow if input.submods.cpu0.nope":             false,
		"package policy\nallow if { x := 1; x / 0 == 1 }":              false,
		"package policy\nallow if data[\"resource-path\"][2] == \"2\"": false,
		"package policy\nallow if { data.plugin == \"resource\"; data[\"resource-path\"] == [\"default\", \"key\", \"1\"]; data.query == {\"v\": \"7\"} }": true,
	} {
		if err := b.admin.SetResourcePolicy(ctx, policy); err != nil {
			t.Fatalf("%q: %v", policy, err)
		}
		a := g.byToken(t, "default/key/1?v=7")
		if allowed {
			g.open(t, a)
			continue
		}
		if v, _ := a.problem(t); a.status == http.StatusOK || v != "PolicyDeny" {
			t.Errorf("policy %q answers %d %s", policy, a.status, a.body)
		}
		got, err := b.admin.ResourcePolicy(ctx)
		if err != nil || got != policy {
			t.Errorf("got %q, error %v", got, err)
		}
	}
	if err := b.admin.SetAttestationPolicy(ctx, "../x", "package policy\ntrust_claims := {}"); err == nil {
		t.Error("a policy id with a path was accepted")
	}
	text, err := b.admin.AttestationPolicy(ctx, "default_cpu")
	if err != nil || !strings.Contains(text, "launch_digest") {
		t.Errorf("got %q, error %v", text, err)
	}
	if _, err := b.admin.AttestationPolicy(ctx, "none"); !errors.Is(err, admin.ErrNotFound) {
		t.Errorf("unknown policy: %v", err)
	}
}

func TestAnAttestationPolicyThatYieldsNonsenseGivesNoToken(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	for policy, says := range map[string]string{
		"package policy\ntrust_claims := {\"hardwear\": 2}":                        "unknown trust claim",
		"package policy\ntrust_claims := {\"hardware\": \"2\"}":                    "no number",
		"package policy\ntrust_claims := {\"hardware\": 2.5}":                      "integer",
		"package policy\ntrust_claims := {\"hardware\": 300}":                      "integer",
		"package policy\ntrust_claims := {}":                                       "no object with members",
		"package policy\ntrust_claims := [2]":                                      "no object with members",
		"package policy\nextensions := [{\"name\": \"ear.status\", \"value\": 1}]": "extension",
		"package policy\nextensions := {}":                                         "extensions",
	} {
		if err := b.admin.SetAttestationPolicy(t.Context(), "default_cpu", policy); err != nil {
			t.Fatal(err)
		}
		g := b.guest(t)
		g.auth(t, "0.4.0", "sample")
		g.attest(t, g.attempt()).want(t, http.StatusUnauthorized, "AttestationError", says)
	}
	if err := b.admin.SetAttestationPolicy(t.Context(), "default_cpu", "package policy"); err != nil {
		t.Fatal(err)
	}
	b.attested(t).byToken(t, "default/key/1").want(t, http.StatusForbidden, "PolicyDeny", "cpu0 is none")
}

func TestTheOperatorManagesReferenceValues(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	ctx := t.Context()
	b.register(t, map[string]any{"a/b": 1, "rvps:///ns/x:1": []string{"y"}})
	g := b.guest(t)
	a := g.send(t, request{method: http.MethodGet, path: "/kbs/v0/reference-value/a/b", bearer: b.adminToken(t, 0)})
	if a.status != http.StatusOK || string(a.body) != "1" {
		t.Fatalf("answer %d %q", a.status, a.body)
	}
	if err := b.admin.DeleteReferenceValue(ctx, "a/b"); err != nil {
		t.Fatal(err)
	}
	if err := b.admin.DeleteReferenceValue(ctx, "a/b"); !errors.Is(err, admin.ErrNotFound) {
		t.Fatalf("second removal: %v", err)
	}
	values, err := b.admin.ReferenceValues(ctx)
	if err != nil || len(values) != 1 || values[0].Name != "rvps:///ns/x:1" || string(values[0].Value) != `["y"]` {
		t.Fatalf("values %+v, error %v", values, err)
	}
	a = g.send(t, request{method: http.MethodGet, path: "/kbs/v0/reference-value/none", bearer: b.adminToken(t, 0)})
	a.want(t, http.StatusNotFound, "RvpsError", "missing")
	a = g.send(t, request{method: http.MethodGet, path: "/kbs/v0/reference-value", bearer: b.adminToken(t, 0)})
	if a.status != http.StatusOK || !strings.Contains(string(a.body), `"name":"rvps:///ns/x:1"`) {
		t.Errorf("list answers %d %s", a.status, a.body)
	}
	a = g.send(t, request{method: http.MethodGet, path: "/kbs/v0/reference-value/a%2A", bearer: b.adminToken(t, 0)})
	a.want(t, http.StatusBadRequest, "RvpsError", "wildcard")
	past := must[[]byte](t)(rvps.NewMessage(map[string]any{"x": 1}, time.Now().Add(-time.Hour)))
	for name, body := range map[string][]byte{
		"empty":           nil,
		"other version":   []byte(`{"version":"0.2.0","type":"sample","payload":"e30="}`),
		"other type":      []byte(`{"version":"0.1.0","type":"swid","payload":"e30="}`),
		"no base64":       []byte(`{"version":"0.1.0","type":"sample","payload":"%"}`),
		"no values":       []byte(`{"version":"0.1.0","type":"sample","payload":"e30="}`),
		"null value":      []byte(`{"version":"0.1.0","type":"sample","payload":"` + base64.StdEncoding.EncodeToString([]byte(`{"x":null}`)) + `"}`),
		"name with space": []byte(`{"version":"0.1.0","type":"sample","payload":"` + base64.StdEncoding.EncodeToString([]byte(`{" a":1}`)) + `"}`),
		"past":            past,
	} {
		if err := b.admin.RegisterReferenceValues(ctx, body); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestOneProcessServesAFolder(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	s, err := server.New(server.Config{Dir: b.dir})
	if !errors.Is(err, store.ErrLocked) || s != nil {
		t.Fatalf("second server: %v, error %v", s, err)
	}
}
