// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package as

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"cocoon/trustee/policy"
)

// sampleEvidence covers claims.
func sampleEvidence(t testing.TB, svn string, claims map[string]any) json.RawMessage {
	t.Helper()
	d, err := digest("sample", claims)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(nil, `{"svn":%q,"report_data":%q}`, svn, base64.StdEncoding.EncodeToString(d))
}

func TestEvidenceThatIsNotOfThisSessionIsRefused(t *testing.T) {
	t.Parallel()
	r := runtimeData(t, "")
	other := r
	other.Nonce = "AAAA"
	good := string(sampleEvidence(t, "1", r.claims()))
	data := func(text string) string { return fmt.Sprintf(`{"svn":"1","report_data":%q}`, text) }
	for name, raw := range map[string]string{
		"null": "null", "list": "[]", "text": `"x"`, "cut": good[:len(good)-1], "empty": "{}",
		"no svn": strings.Replace(good, `"svn":"1",`, "", 1), "svn a number": strings.Replace(good, `"1"`, "1", 1), "svn null": strings.Replace(good, `"1"`, "null", 1),
		"svn too long":    strings.Replace(good, `"1"`, `"`+strings.Repeat("1", maxSVN+1)+`"`, 1),
		"no digest":       `{"svn":"1"}`,
		"empty digest":    data(""),
		"no base64":       data("%"),
		"zero digest":     data(base64.StdEncoding.EncodeToString(make([]byte, 48))),
		"longer":          strings.Replace(good, `"}`, `AAAA"}`, 1),
		"other nonce":     string(sampleEvidence(t, "1", other.claims())),
		"for devices":     string(sampleEvidence(t, "1", r.deviceClaims())),
		"more was signed": string(sampleEvidence(t, "1", runtimeData(t, "{}").claims())),
	} {
		_, err := service(t, true).Evaluate(t.Context(), Evidence{TEE: "sample", Primary: json.RawMessage(raw), Runtime: r})
		if !errors.Is(err, ErrEvidence) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, err := service(t, true).Evaluate(t.Context(), Evidence{TEE: "sample", Primary: json.RawMessage(good), Runtime: r}); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

func TestDevicesThatCannotBeVerifiedFailTheWhole(t *testing.T) {
	t.Parallel()
	device := string(sampleEvidence(t, "2", runtimeData(t, "").deviceClaims()))
	var crowd []string
	for i := range maxDevices + 1 {
		crowd = append(crowd, fmt.Sprintf(`"d%d":{}`, i))
	}
	for name, tc := range map[string]struct {
		additional string
		want       error
	}{
		"good":             {`{"sampledevice":` + device + `}`, nil},
		"none":             {`{}`, nil},
		"no object":        {`[]`, ErrEvidence},
		"text":             {`x`, ErrEvidence},
		"space":            {` `, ErrEvidence},
		"unknown":          {`{"nvidia":{}}`, ErrUnknownTEE},
		"one unknown":      {`{"nvidia":{},"sampledevice":` + device + `}`, ErrUnknownTEE},
		"null":             {`{"sampledevice":null}`, ErrEvidence},
		"of the whole":     {`{"sampledevice":` + string(sampleEvidence(t, "2", runtimeData(t, "").claims())) + `}`, ErrEvidence},
		"a second machine": {`{"sample":` + string(sampleEvidence(t, "2", runtimeData(t, "").claims())) + `}`, ErrEvidence},
		"crowd":            {"{" + strings.Join(crowd, ",") + "}", ErrEvidence},
	} {
		r := runtimeData(t, tc.additional)
		claims, err := service(t, true).Evaluate(t.Context(), Evidence{TEE: "sample", Primary: sampleEvidence(t, "1", r.claims()), Runtime: r})
		if !errors.Is(err, tc.want) || (err == nil) != (claims != nil) {
			t.Errorf("%s: %v, error %v, want %v", name, claims, err, tc.want)
		}
	}
}

func TestAPolicyThatYieldsNonsenseGivesNoVerdict(t *testing.T) {
	t.Parallel()
	for rules, want := range map[string]string{ // the status, or empty for a refusal
		`trust_claims := {"hardware": 2}`:                     "affirming",
		`trust_claims := {"hardware": 2, "executables": -33}`: "warning",
		`other := 1`:                                         "none",
		`trust_claims := {}`:                                 "",
		`trust_claims := []`:                                 "",
		`trust_claims := 2`:                                  "",
		`trust_claims := null`:                               "",
		`trust_claims := {"hardwear": 2}`:                    "",
		`trust_claims := {"hardware": "2"}`:                  "",
		`trust_claims := {"hardware": 2.5}`:                  "",
		`trust_claims := {"hardware": 128}`:                  "",
		`trust_claims := {"hardware": -129}`:                 "",
		`trust_claims := {"hardware": 99999999999999999999}`: "",
		`trust_claims := {"hardware": null}`:                 "",
		`trust_claims := {"hardware": 2} if true` + "\ntrust_claims := {} if true": "",
		`extensions := [{"name": "x", "key": 1, "value": {"a": 1}}]`:               "none",
		`extensions := [{"name": "ear.status", "value": "affirming"}]`:             "",
		`extensions := [{"name": "ear.trustworthiness-vector", "value": {}}]`:      "",
		`extensions := [{"name": "ear.veraison.annotated-evidence", "value": {}}]`: "",
		`extensions := [{"name": "", "value": 1}]`:                                 "",
		`extensions := [1]`:           "",
		`extensions := {"name": "x"}`: "",
		`extensions := [x | some i in numbers.range(1, 99); x := {"name": sprintf("%d", [i])}]`: "",
		`reasons := 7`:              "none", // reasons decide nothing
		`reasons := [1, "x", null]`: "none",
	} {
		p, err := policy.Compile("package policy\n" + rules)
		if err != nil {
			t.Fatalf("%s: %v", rules, err)
		}
		a, err := appraise(t.Context(), p, policy.Eval{Input: map[string]any{}})
		switch {
		case want == "" && !errors.Is(err, ErrAppraisal):
			t.Errorf("%s: %+v, error %v", rules, a, err)
		case want != "" && (err != nil || a.status != want || len(a.vector) != 8):
			t.Errorf("%s: %+v, error %v, want %s", rules, a, err, want)
		}
	}
}

func TestReasonsAreBounded(t *testing.T) {
	t.Parallel()
	p, err := policy.Compile(`package policy
reasons contains sprintf("%d%s", [i, concat("", [x | some _ in numbers.range(1, 400); x := "é"])]) if some i in numbers.range(1, 99)`)
	if err != nil {
		t.Fatal(err)
	}
	a, err := appraise(t.Context(), p, policy.Eval{Input: map[string]any{}})
	if err != nil || len(a.reasons) != maxReasons {
		t.Fatalf("%d reasons, error %v", len(a.reasons), err)
	}
	for _, r := range a.reasons {
		if len(r) > maxReasonLen || strings.ToValidUTF8(r, "") != r {
			t.Errorf("reason of %d bytes: %q", len(r), r)
		}
	}
}
