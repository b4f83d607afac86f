// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cocoon/trustee/policy"
	"cocoon/trustee/store"
)

const tokenKey = `{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"VE5DZ3lY7GNrA5aP5NMjW98d4e1unpNW2OMcAMXLdEg","y":"5vkL19iSlbWONgHGXmtSDCMgIcvxQAfhyJOIhBXVf44"}`

func object(t testing.TB, text string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return m
}

// decide asks the policy text about kbs:///default/key/1 with the given query.
func decide(t testing.TB, text, claims, query string) (bool, error) {
	t.Helper()
	p, err := policy.Compile(text)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/kbs/v0/resource/default/key/1", nil)
	r.URL.RawQuery = query
	return allows(r, p, object(t, claims), store.Path{Repository: "default", Type: "key", Tag: "1"})
}

func TestTheBuiltInPolicyReleasesOnlyToAffirmingGuests(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		claims string
		want   bool
	}{
		"one":               {`{"submods":{"cpu0":{"ear.status":"affirming"}}}`, true},
		"two":               {`{"submods":{"cpu0":{"ear.status":"affirming"},"gpu0":{"ear.status":"affirming"}}}`, true},
		"one of two":        {`{"submods":{"cpu0":{"ear.status":"affirming"},"gpu0":{"ear.status":"warning"}}}`, false},
		"none":              {`{"submods":{"cpu0":{"ear.status":"none"}}}`, false},
		"warning":           {`{"submods":{"cpu0":{"ear.status":"warning"}}}`, false},
		"contraindicated":   {`{"submods":{"cpu0":{"ear.status":"contraindicated"}}}`, false},
		"other case":        {`{"submods":{"cpu0":{"ear.status":"Affirming"}}}`, false},
		"list of statuses":  {`{"submods":{"cpu0":{"ear.status":["affirming"]}}}`, false},
		"no status":         {`{"submods":{"cpu0":{}}}`, false},
		"status outside":    {`{"ear.status":"affirming","submods":{"cpu0":{}}}`, false},
		"submodule of text": {`{"submods":{"cpu0":"affirming"}}`, false},
		"empty submodules":  {`{"submods":{}}`, false},
		"empty list":        {`{"submods":[]}`, false},
		"text":              {`{"submods":"affirming"}`, false},
		"null":              {`{"submods":null}`, false},
		"no submodules":     {`{}`, false},
	} {
		got, err := decide(t, defaultResource, tc.claims, "")
		if err != nil || got != tc.want {
			t.Errorf("%s: %v, error %v; want %v", name, got, err, tc.want)
		}
	}
}

func TestOnlyTheBooleanTrueAllows(t *testing.T) {
	t.Parallel()
	for rule, want := range map[string]bool{
		`allow := true`: true, `allow := false`: false, `allow := "true"`: false, `allow := 1`: false, `allow := null`: false, `allow := [true]`: false,
		`allow := {"allow": true}`: false, `allow if input.absent`: false, `allowed := true`: false, `default allow := false`: false,
		`allow if data.plugin == "resource"`:                            true,
		`allow if data.plugin == "kv"`:                                  false,
		`allow if data["resource-path"] == ["default", "key", "1"]`:     true,
		`allow if data["resource-path"] == ["default", "key"]`:          false,
		`allow if data["resource-path"] == "default/key/1"`:             false,
		`allow if data.query.id == "7"`:                                 true,
		`allow if data.query.id == 7`:                                   false,
		`allow if data.query.more`:                                      false,
		`allow if input["resource-path"]`:                               false,
		`allow if query_reference_value("x") != null`:                   false,
		`allow if input.submods.cpu0["ear.status"] in {"a", "warning"}`: true,
	} {
		got, err := decide(t, "package policy\n"+rule, `{"submods":{"cpu0":{"ear.status":"warning"}}}`, "id=7&id=8")
		if err != nil || got != want {
			t.Errorf("%s: %v, error %v; want %v", rule, got, err, want)
		}
	}
}

func TestAPolicyThatFailsIsNoPermission(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ rule, query string }{
		"conflict": {"allow := true if input.a\nallow := false if input.a", ""},
		"query":    {"allow := true", "%zz"},
		"endless":  {"allow if { every x in numbers.range(1, 99999) { every y in numbers.range(1, 99999) { x + y > 0 } } }", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if yes, err := decide(t, "package policy\n"+tc.rule, `{"a":true}`, tc.query); yes || err == nil {
				t.Fatalf("allowed %v, error %v", yes, err)
			}
		})
	}
}

func TestTheTEEKeyIsFoundWhereServicesPutIt(t *testing.T) {
	t.Parallel()
	for _, claims := range []string{
		`{"tee-pubkey":KEY}`, `{"tdx":{"attester_runtime_data":{"tee-pubkey":KEY}}}`, `{"tdx":{"attester_user_data":{"tee-pubkey":KEY}}}`,
		`{"customized_claims":{"runtime_data":{"tee-pubkey":KEY}}}`,
		`{"submods":{"cpu0":{"ear.veraison.annotated-evidence":{"runtime_data_claims":{"tee-pubkey":KEY}}}}}`,
		`{"submods":{"cpu0":{}},"tdx":7,"tee-pubkey":KEY}`,
	} {
		k, err := keyOf(object(t, strings.ReplaceAll(claims, "KEY", tokenKey)))
		if err != nil || k.Members()["x"] != "VE5DZ3lY7GNrA5aP5NMjW98d4e1unpNW2OMcAMXLdEg" {
			t.Errorf("%s: %v", claims, err)
		}
	}
	for _, claims := range []string{
		`{}`, `{"tee-pubkey":null}`, `{"tee-pubkey":"x"}`, `{"tee-pubkey":{}}`, `{"tee-pubkey":[KEY]}`, `{"submods":{"gpu0":{"tee-pubkey":KEY}}}`,
		`{"tdx":{"attester_runtime_data":{"tee-pubkey":{}}},"tee-pubkey":KEY}`, // the first that exists counts
		`{"submods":{"gpu0":{"ear.veraison.annotated-evidence":{"runtime_data_claims":{"tee-pubkey":KEY}}}}}`,
		`{"tee-pubkey":` + strings.Replace(tokenKey, "5vkL", "5vkM", 1) + `}`, // not on the curve
	} {
		if k, err := keyOf(object(t, strings.ReplaceAll(claims, "KEY", tokenKey))); err == nil {
			t.Errorf("%s gives %v", claims, k.Members())
		}
	}
}

func TestADenialSaysWhyAndStaysShort(t *testing.T) {
	t.Parallel()
	path := store.Path{Repository: "a", Type: "b", Tag: "c"}
	long := strings.Repeat("é", maxDetail)
	for claims, want := range map[string]string{
		`{}`:                     `"a/b/c": rule data.policy.allow is not true`,
		`{"submods":7}`:          "is not true",
		`{"submods":{"cpu0":7}}`: "; cpu0 is <nil>",
		`{"submods":{"b":{"ear.status":"warning"},"a":{"ear.status":"none","ear.cocoon.reasons":["x","y"]}}}`: "; a is none: x, y; b is warning",
		`{"submods":{"a":{"ear.cocoon.reasons":["` + long + `"]}}}`:                                           "éé",
	} {
		err := denial(path, object(t, claims))
		if text := err.Error(); !strings.Contains(text, want) || len(text) > maxDetail || strings.ToValidUTF8(text, "") != text {
			t.Errorf("%.80s: %d bytes, %.120q, want %q", claims, len(text), text, want)
		}
	}
}

func TestErrorsWithoutAnAnswerOfTheirOwnSayNothing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err    error
		status int
		body   string
	}{
		"own":      {errors.Join(fail(404, variantPath, errors.New("bad name")), errors.New("audit")), 404, `"detail":"bad name","type":"` + problemBase + `InvalidRequestPath"`},
		"internal": {errors.New("open /secret/path: no such file"), 500, `"detail":"internal error"`},
	} {
		w := httptest.NewRecorder()
		if err := writeProblem(w, tc.err); err != nil {
			t.Fatal(err)
		}
		if w.Code != tc.status || !strings.Contains(w.Body.String(), tc.body) || strings.Contains(w.Body.String(), "/secret/") {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}
