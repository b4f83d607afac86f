// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/trustee/kbs"
	"cocoon/trustee/rvps"
	"cocoon/trustee/server"
	"cocoon/trustee/store"
)

func TestAnAttestedGuestGetsItsSecret(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	g := b.attested(t)
	if got := g.open(t, g.byToken(t, "default/key/1")); got != secretText {
		t.Errorf("by token: %q", got)
	}
	if got := g.open(t, g.bySession(t, "default/key/1")); got != secretText {
		t.Errorf("by session: %q", got)
	}
	if strings.Contains(b.audit.String(), secretText) || strings.Contains(b.audit.String(), g.token) {
		t.Error("the audit log holds a secret or a token")
	}
	if !strings.Contains(b.audit.String(), `"decision":"released"`) || !strings.Contains(b.audit.String(), `"launch_digest":"abcde"`) {
		t.Errorf("the audit log does not say who got what on which evidence:\n%s", b.audit)
	}
}

func TestTheTokenHasTheShapeThatPoliciesReadFrom(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	g := b.guest(t)
	g.auth(t, "0.4.0", "sample")
	a := g.attempt()
	a.initData = `{"format":"toml","body":"version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"cdh.toml\" = \"x = 1\"\n\"policy.rego\" = \"package agent_policy\\npolicy_data := {\\\"n\\\": 1}\"\n"}`
	if res := g.attest(t, a); res.status != http.StatusOK {
		t.Fatalf("%s", res.body)
	}
	c := g.claims(t)
	submod := c["submods"].(map[string]any)["cpu0"].(map[string]any)
	ev := submod["ear.veraison.annotated-evidence"].(map[string]any)
	vector := submod["ear.trustworthiness-vector"].(map[string]any)
	got, err := json.Marshal([]any{
		c["eat_profile"], c["iss"], c["exp"].(float64) - c["iat"].(float64), submod["ear.status"], submod["ear.appraisal-policy-id"],
		vector["executables"], vector["hardware"], vector["configuration"], len(vector), ev["sample"], ev["init_data_claims"],
		ev["runtime_data_claims"].(map[string]any)["nonce"] == g.nonce,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `["tag:github.com,2024:confidential-containers/Trustee","CoCo-Attestation-Service",300,"affirming","default",3,2,2,8,` +
		`{"debug":false,"launch_digest":"abcde","platform_version":{"major":1,"minor":4},"svn":"1"},` +
		`{"agent_policy_claims":{"n":1},"cdh.toml":{"x":1}},true]`
	if string(got) != want {
		t.Fatalf("token\n%s, want\n%s", got, want)
	}
	head := must[[]byte](t)(base64.RawURLEncoding.DecodeString(strings.Split(g.token, ".")[0]))
	var h struct {
		Typ, Alg string
		JWK      struct {
			Kty, Crv, Alg, X, Y string
			X5c                 []string
		}
	}
	if err := json.Unmarshal(head, &h); err != nil {
		t.Fatal(err)
	}
	if h.Typ != "JWT" || h.Alg != "ES256" || h.JWK.Kty != "EC" || h.JWK.Crv != "P-256" || h.JWK.Alg != "ES256" || len(h.JWK.X) != 43 || len(h.JWK.X5c) != 1 {
		t.Fatalf("header %s", head)
	}
}

func TestAWrongReferenceValueIsNamed(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		values map[string]any
		says   string
	}{
		"digest":           {map[string]any{"launch_digest": []string{"other"}}, `launch_digest abcde is not in reference value launch_digest ["other"]`},
		"svn":              {map[string]any{"svn": []string{"7"}}, `svn 1 is not in reference value svn ["7"]`},
		"svn as a number":  {map[string]any{"svn": []int{1}}, `svn 1 is not in reference value svn [1]`},
		"svn as a scalar":  {map[string]any{"svn": "1"}, "reference value svn is missing, expired, or no list"},
		"major version":    {map[string]any{"major_version": 2}, "platform major version 1 differs"},
		"minor version":    {map[string]any{"minimum_minor_version": 5}, "platform minor version 4 is below"},
		"minor as a list":  {map[string]any{"minimum_minor_version": []int{1}}, "minimum_minor_version is missing, expired, or no number"},
		"all of them":      {map[string]any{"svn": []string{}, "launch_digest": []string{}}, "cpu0 is contraindicated"},
		"only executables": {map[string]any{"launch_digest": []string{}}, "cpu0 is warning"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := ready(t, nil)
			b.register(t, tc.values)
			g := b.attested(t)
			g.byToken(t, "default/key/1").want(t, http.StatusForbidden, "PolicyDeny", tc.says)
			g.bySession(t, "default/key/1").want(t, http.StatusForbidden, "PolicyDeny", "data.policy.allow")
			g.byToken(t, "default/key/none").want(t, http.StatusForbidden, "PolicyDeny", "")
			if !strings.Contains(b.audit.String(), `"decision":"refused"`) {
				t.Error("the refusal is not in the audit log")
			}
		})
	}
}

func TestARefusedGuestIsAskedToAttestAnewWhenTheRulesChanged(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	b.register(t, map[string]any{"svn": []string{"7"}})
	g := b.attested(t)
	g.byToken(t, "default/key/1").want(t, http.StatusForbidden, "PolicyDeny", "svn 1 is not in")
	b.register(t, map[string]any{"svn": []string{"1"}})
	g.byToken(t, "default/key/1").want(t, http.StatusUnauthorized, "TokenVerifierError", "changed since this attestation")
	g.bySession(t, "default/key/1").want(t, http.StatusUnauthorized, "TokenVerifierError", "changed since this attestation")
	again := b.attested(t)
	if got := again.open(t, again.byToken(t, "default/key/1")); got != secretText {
		t.Fatalf("got %q", got)
	}
	// The policy of resources is asked on every request: it needs no new token.
	if err := b.admin.SetResourcePolicy(t.Context(), "package policy\nallow := false"); err != nil {
		t.Fatal(err)
	}
	again.byToken(t, "default/key/1").want(t, http.StatusForbidden, "PolicyDeny", "data.policy.allow")
}

func TestAnOldVerdictReleasesNothing(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*broker) error{
		"another value": func(b *broker) error {
			return b.admin.RegisterReferenceValues(t.Context(), must[[]byte](t)(rvps.NewMessage(map[string]any{"svn": []string{"7"}}, time.Time{})))
		},
		"no value": func(b *broker) error { return b.admin.DeleteReferenceValue(t.Context(), "launch_digest") },
		"another policy": func(b *broker) error {
			return b.admin.SetAttestationPolicy(t.Context(), "default_cpu", "package policy\ntrust_claims := {\"hardware\": 97}")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := ready(t, nil)
			g := b.attested(t)
			g.open(t, g.byToken(t, "default/key/1"))
			if err := change(b); err != nil {
				t.Fatal(err)
			}
			g.byToken(t, "default/key/1").want(t, http.StatusUnauthorized, "TokenVerifierError", "attest anew")
			g.bySession(t, "default/key/1").want(t, http.StatusUnauthorized, "TokenVerifierError", "attest anew")
			b.attested(t).byToken(t, "default/key/1").want(t, http.StatusForbidden, "PolicyDeny", "cpu0 is ")
			if n := strings.Count(b.audit.String(), `"reason":"reference values or attestation policies changed`); n != 2 {
				t.Errorf("%d records of the refusal, want 2:\n%s", n, b.audit)
			}
		})
	}
}

func TestNothingIsReleasedWithoutReferenceValues(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	if err := b.admin.SetResource(t.Context(), "default/key/1", []byte(secretText)); err != nil {
		t.Fatal(err)
	}
	b.attested(t).byToken(t, "default/key/1").want(t, http.StatusForbidden, "PolicyDeny", "reference value launch_digest is missing")
}

func TestExpiredReferenceValuesCountNoMore(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	b.clock.advance(366 * 24 * time.Hour)
	b.attested(t).byToken(t, "default/key/1").want(t, http.StatusForbidden, "PolicyDeny", "missing, expired")
}

func TestARefusedAttestationGivesNoToken(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	other := b.guest(t)
	other.auth(t, "0.4.0", "sample")
	for name, tc := range map[string]struct {
		change  func(a *attempt)
		variant string
		says    string
	}{
		"nonce of another session": {func(a *attempt) { a.nonce = other.nonce; a.cover() }, "AttestationError", "nonce is not that of this session"},
		"nonce decoded":            {func(a *attempt) { a.nonce = strings.TrimRight(a.nonce, "="); a.cover() }, "AttestationError", "nonce"},
		"empty nonce":              {func(a *attempt) { a.nonce = ""; a.cover() }, "AttestationError", "nonce"},
		"digest of another key":    {func(a *attempt) { a.jwk = other.jwk() }, "AttestationError", "report_data"},
		"digest without additional evidence": {func(a *attempt) {
			a.covered = strings.Replace(a.covered, `"additional-evidence":"",`, "", 1)
		}, "AttestationError", "report_data"},
		"tampered report data": {func(a *attempt) { a.covered += " " }, "AttestationError", "report_data"},
		"short report data":    {func(a *attempt) { a.primary = `{"svn":"1","report_data":"AAAA"}` }, "AttestationError", "report_data"},
		"no report data":       {func(a *attempt) { a.primary = `{"svn":"1"}` }, "AttestationError", "report_data"},
		"no base64":            {func(a *attempt) { a.primary = `{"svn":"1","report_data":"%"}` }, "AttestationError", "report_data"},
		"no svn":               {func(a *attempt) { a.primary = `{"report_data":"AAAA"}` }, "AttestationError", "svn"},
		"svn as number":        {func(a *attempt) { a.primary = `{"svn":1,"report_data":"AAAA"}` }, "AttestationError", "evidence"},
		"long svn":             {func(a *attempt) { a.svn = strings.Repeat("1", 65) }, "AttestationError", "svn"},
		"evidence as list":     {func(a *attempt) { a.primary = `[]` }, "AttestationError", "evidence"},
		"null evidence":        {func(a *attempt) { a.primary = `null` }, "AttestationError", "primary_evidence"},
		"evidence no JSON":     {func(a *attempt) { a.primary = `{` }, "SerdeError", "parse"},
		"weak key":             {func(a *attempt) { a.jwk = `{"kty":"oct","k":"AA"}`; a.cover() }, "AttestationError", "TEE public key"},
		"additional not covered": {func(a *attempt) {
			a.additional = `{"sampledevice":` + evidence("2", "x") + `}`
		}, "AttestationError", "report_data"},
		"device with wrong digest": {func(a *attempt) {
			a.additional = `{"sampledevice":` + evidence("2", "x") + `}`
			a.cover()
		}, "AttestationError", "sampledevice"},
		"unknown device":          {func(a *attempt) { a.additional = `{"toaster":{}}`; a.cover() }, "AttestationError", "toaster"},
		"additional no JSON":      {func(a *attempt) { a.additional = `{`; a.cover() }, "AttestationError", "additional evidence"},
		"init data as JSON":       {func(a *attempt) { a.initData = `{"format":"json","body":"{}"}` }, "AttestationError", "init data"},
		"init data no TOML":       {func(a *attempt) { a.initData = `{"format":"toml","body":"["}` }, "AttestationError", "init data"},
		"init data other version": {func(a *attempt) { a.initData = `{"format":"toml","body":"version=\"9\"\nalgorithm=\"sha256\""}` }, "AttestationError", "version"},
		"init data algorithm":     {func(a *attempt) { a.initData = `{"format":"toml","body":"version=\"0.1.0\"\nalgorithm=\"md5\""}` }, "AttestationError", "md5"},
		"init data of brackets": {func(a *attempt) {
			a.initData = `{"format":"toml","body":"x = ` + strings.Repeat("[", 500_000) + `"}`
		}, "AttestationError", "nested"},
		"no session":      {func(a *attempt) { a.cookie = "" }, "AttestationError", "cookie"},
		"foreign cookie":  {func(a *attempt) { a.cookie = strings.Repeat("0", 32) }, "AttestationError", "unknown or expired"},
		"cookie of other": {func(a *attempt) { a.cookie = other.cookie }, "AttestationError", "nonce"},
	} {
		t.Run(name, func(t *testing.T) {
			g := b.guest(t)
			g.auth(t, "0.4.0", "sample")
			a := g.attempt()
			tc.change(a)
			g.attest(t, a).want(t, http.StatusUnauthorized, tc.variant, tc.says)
			if g.token != "" {
				t.Fatal("a token was given")
			}
			g.bySession(t, "default/key/1").want(t, http.StatusUnauthorized, "TokenNotFound", "")
		})
	}
}

func TestANonceServesOneAttempt(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	g := b.guest(t)
	g.auth(t, "0.4.0", "sample")
	bad := g.attempt()
	bad.covered += " "
	g.attest(t, bad).want(t, http.StatusUnauthorized, "AttestationError", "report_data")
	g.attest(t, g.attempt()).want(t, http.StatusUnauthorized, "AttestationError", "unknown or expired")
}

func TestASecondAttestationKeepsKeyAndToken(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	g := b.attested(t)
	first := g.token
	if a := g.attest(t, g.attempt()); a.status != http.StatusOK || g.token != first {
		t.Fatalf("the same guest got %d and another token", a.status)
	}
	thief := b.guest(t)
	thief.cookie, thief.nonce = g.cookie, g.nonce
	thief.attest(t, thief.attempt()).want(t, http.StatusUnauthorized, "AttestationError", "another key")
	if thief.token != "" {
		t.Fatal("another key got the token")
	}
	if got := g.open(t, g.bySession(t, "default/key/1")); got != secretText {
		t.Fatalf("the session was lost: %q", got)
	}
}

func TestSessionsAndTokensExpire(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	g := b.attested(t)
	late := b.guest(t)
	late.auth(t, "0.4.0", "sample")
	b.clock.advance(5*time.Minute + time.Second)
	late.attest(t, late.attempt()).want(t, http.StatusUnauthorized, "AttestationError", "expired")
	g.bySession(t, "default/key/1").want(t, http.StatusUnauthorized, "TokenNotFound", "expired")
	if got := g.open(t, g.byToken(t, "default/key/1")); got != secretText {
		t.Fatalf("within the leeway: %q", got)
	}
	b.clock.advance(time.Minute)
	g.byToken(t, "default/key/1").want(t, http.StatusUnauthorized, "TokenVerifierError", "expired")
}

func TestOnlyTheProtocolVersionOfTheSpecificationIsServed(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	g := b.guest(t)
	for _, v := range []string{"", "0.1.0", "0.3.9", "0.4.1", "0.4", "1.4.0", "0.4.0-rc1", " 0.4.0"} {
		g.auth(t, v, "sample").want(t, http.StatusUnauthorized, "AttestationError", "expect =0.4.0")
	}
	for _, body := range []string{"", "{", "[]", `{"version":4}`} {
		g.send(t, request{method: http.MethodPost, path: "/kbs/v0/auth", body: []byte(body)}).want(t, http.StatusUnauthorized, "SerdeError", "parse")
	}
}

func TestUnknownAndUnwantedTEEsAreTurnedAway(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	g := b.guest(t)
	for _, tee := range []string{"", "snp", "SAMPLE", "toaster"} {
		g.auth(t, "0.4.0", tee).want(t, http.StatusUnauthorized, "AttestationError", "not supported")
	}
	strict := start(t, func(c *server.Config) { c.AllowSample = false })
	for _, tee := range []string{"sample", "sampledevice"} {
		strict.guest(t).auth(t, "0.4.0", tee).want(t, http.StatusUnauthorized, "AttestationError", "--allow-sample")
	}
}

func TestADeviceIsAppraisedForItself(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	g := b.guest(t)
	g.auth(t, "0.4.0", "sample")
	a := g.attempt()
	covered := `{"nonce":"` + g.nonce + `","tee-pubkey":` + g.jwk() + `}`
	a.additional = `{"sampledevice":` + evidence("2", covered) + `}`
	a.cover()
	if res := g.attest(t, a); res.status != http.StatusOK {
		t.Fatalf("%s", res.body)
	}
	g.byToken(t, "default/key/1").want(t, http.StatusForbidden, "PolicyDeny", "cpu0 is affirming; gpu0 is contraindicated")
	const good = "package policy\ntrust_claims := {\"hardware\": 2} if input.sampledevice.svn == \"2\""
	if err := b.admin.SetAttestationPolicy(t.Context(), "default_gpu", good); err != nil {
		t.Fatal(err)
	}
	g.auth(t, "0.4.0", "sample")
	a.cookie, a.nonce = g.cookie, g.nonce
	a.additional = `{"sampledevice":` + evidence("2", `{"nonce":"`+g.nonce+`","tee-pubkey":`+g.jwk()+`}`) + `}`
	a.cover()
	if res := g.attest(t, a); res.status != http.StatusOK {
		t.Fatalf("%s", res.body)
	}
	if got := g.open(t, g.byToken(t, "default/key/1")); got != secretText {
		t.Fatalf("got %q", got)
	}
}

func TestManyGuestsAttestAtOnce(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				g := b.attested(t)
				if got := g.open(t, g.byToken(t, "default/key/1")); got != secretText {
					t.Errorf("got %q", got)
				}
			})
		})
	}
	wg.Wait()
}

func TestStrangersCannotPushOutAnAttestedGuest(t *testing.T) {
	t.Parallel()
	b := ready(t, func(c *server.Config) { c.MaxSessions = 8 })
	g := b.attested(t)
	early := b.guest(t)
	early.auth(t, "0.4.0", "sample")
	stranger := b.guest(t)
	for range 20 {
		stranger.auth(t, "0.4.0", "sample")
	}
	if got := g.open(t, g.bySession(t, "default/key/1")); got != secretText {
		t.Fatalf("got %q", got)
	}
	early.attest(t, early.attempt()).want(t, http.StatusUnauthorized, "AttestationError", "unknown or expired")
}

func TestNoRecordMeansNoRelease(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	g := b.attested(t)
	b.audit.fail(errors.New("disk full"))
	for _, a := range []answer{g.byToken(t, "default/key/1"), g.bySession(t, "default/key/1")} {
		if a.status != http.StatusInternalServerError || strings.Contains(string(a.body), "ciphertext") {
			t.Fatalf("answer %d %s", a.status, a.body)
		}
	}
}

// lost is a store of secrets that cannot be reached.
type lost struct{ kbs.Resources }

func (lost) Get(context.Context, store.Path) ([]byte, error) {
	return nil, fmt.Errorf("ask for it: %w", store.ErrUnavailable)
}

func TestAGuestIsToldOfAStoreThatDoesNotServe(t *testing.T) {
	t.Parallel()
	b := start(t, func(c *server.Config) { c.Resources = lost{} })
	b.register(t, goodValues())
	b.attested(t).byToken(t, "default/key/1").want(t, http.StatusServiceUnavailable, "PluginInternalError", "does not serve the broker")
}
