// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package as

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// covering is sample evidence whose report data is data.
func covering(data []byte) json.RawMessage {
	return fmt.Appendf(nil, `{"svn":"1","report_data":%q}`, base64.StdEncoding.EncodeToString(data))
}

func structured(t testing.TB, text, algorithm string) *RuntimeData {
	t.Helper()
	r, err := StructuredRuntimeData([]byte(text), algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func raw(t testing.TB, data string) *RuntimeData {
	t.Helper()
	r, err := RawRuntimeData([]byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// judged returns the annotated evidence of cpu0.
func judged(t testing.TB, sub Submission) map[string]any {
	t.Helper()
	sub.TEE = "sample"
	claims, err := service(t, true).Judge(t.Context(), []Submission{sub}, "")
	if err != nil {
		t.Fatal(err)
	}
	if claims[IssuedForMember] != relyingParty {
		t.Fatal("the token does not say that it is for others")
	}
	return claims["submods"].(map[string]any)["cpu0"].(map[string]any)[EvidenceMember].(map[string]any)
}

func TestReportDataIsComparedAsTheRelyingPartySays(t *testing.T) {
	t.Parallel()
	const text, canonicalText = `{ "b": 1, "a": {"d": 1e2, "c": "<é>"} }`, `{"a":{"c":"<é>","d":100},"b":1}`
	d256, d384, d512 := sha256.Sum256([]byte(canonicalText)), sha512.Sum384([]byte(canonicalText)), sha512.Sum512([]byte(canonicalText))
	object := map[string]any{"a": map[string]any{"c": "<é>", "d": 100.0}, "b": 1.0}
	for name, tc := range map[string]struct {
		runtime  *RuntimeData
		evidence []byte
		claims   any
	}{
		"sha256":       {structured(t, text, "sha256"), d256[:], object},
		"sha384":       {structured(t, text, "sha384"), d384[:], object},
		"sha512":       {structured(t, text, "sha512"), d512[:], object},
		"by default":   {structured(t, text, ""), d384[:], object},
		"empty object": {structured(t, `{}`, "sha256"), must256(`{}`), map[string]any{}},
		"raw":          {raw(t, "nonce"), []byte("nonce"), nil},
	} {
		got := judged(t, Submission{Evidence: covering(tc.evidence), Runtime: tc.runtime})
		if !reflect.DeepEqual(got["runtime_data_claims"], tc.claims) || got[ComparedMember] != nil {
			t.Errorf("%s: claims %v", name, got)
		}
		_, err := service(t, true).Judge(t.Context(), []Submission{{TEE: "sample", Evidence: covering([]byte("another")), Runtime: tc.runtime}}, "")
		if !errors.Is(err, ErrEvidence) || !strings.Contains(err.Error(), "report_data") {
			t.Errorf("%s: evidence over other data: %v", name, err)
		}
	}
	got := judged(t, Submission{Evidence: covering([]byte("anything"))})
	if got[ComparedMember] != false || got["runtime_data_claims"] != nil {
		t.Errorf("without runtime data the token claims %v", got)
	}
}

func must256(text string) []byte { d := sha256.Sum256([]byte(text)); return d[:] }

func TestInitDataIsADigestOrATextOrNothing(t *testing.T) {
	t.Parallel()
	const text = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\nx = \"y\"\n"
	d := must256(text)
	if got := judged(t, Submission{Evidence: covering(nil)}); len(got) != 4 {
		t.Errorf("nothing: %v", got)
	}
	for name, sub := range map[string]Submission{"digest": {InitDigest: d}, "text": {InitData: text}} {
		sub.Evidence = covering(nil)
		got := judged(t, sub)
		claims, parsed := got["init_data_claims"].(map[string]any)
		if got["init_data"] != base64.StdEncoding.EncodeToString(d) || parsed != (name == "text") || parsed && claims["x"] != "y" {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestSubmissionsThatSayNothingAreRefused(t *testing.T) {
	t.Parallel()
	good := Submission{TEE: "sample", Evidence: covering(nil)}
	for name, tc := range map[string]struct {
		all  []Submission
		want error
	}{
		"none":         {nil, ErrSubmission},
		"too many":     {make([]Submission, maxSubmissions+1), ErrSubmission},
		"unknown TEE":  {[]Submission{good, {TEE: "enigma"}}, ErrUnknownTEE},
		"both":         {[]Submission{{TEE: "sample", InitDigest: []byte{1}, InitData: "x"}}, ErrSubmission},
		"empty digest": {[]Submission{{TEE: "sample", InitDigest: []byte{}}}, ErrSubmission},
		"no TOML":      {[]Submission{{TEE: "sample", InitData: "="}}, ErrBadInitData},
		"no evidence":  {[]Submission{{TEE: "sample"}}, ErrEvidence},
	} {
		if _, err := service(t, true).Judge(t.Context(), tc.all, ""); !errors.Is(err, tc.want) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, err := service(t, true).Judge(t.Context(), []Submission{good}, "mine"); err == nil || !strings.Contains(err.Error(), "mine_cpu") {
		t.Errorf("unknown policy: error %v", err)
	}
	for _, text := range []string{"", "null", "[]", `"x"`, "7", "{", "{}{}", `{"a":` + strings.Repeat("[", 20_000), `{"a":[` + strings.Repeat("1,", maxRuntimeTokens) + `1]}`} {
		if r, err := StructuredRuntimeData([]byte(text), ""); !errors.Is(err, ErrSubmission) {
			t.Errorf("%.20q: %v, error %v", text, r, err)
		}
	}
	if _, err := StructuredRuntimeData([]byte("{}"), "md5"); !errors.Is(err, ErrSubmission) {
		t.Errorf("md5: error %v", err)
	}
	if _, err := RawRuntimeData(nil); !errors.Is(err, ErrSubmission) {
		t.Errorf("empty: error %v", err)
	}
}

type challenger struct{ fake }

func (challenger) Challenge(_ context.Context, params string) (string, error) {
	if params == "" {
		return "", errors.New("no parameters")
	}
	return "request for " + params, nil
}

func TestOnlySomeTEEsNeedAChallenge(t *testing.T) {
	t.Parallel()
	s := service(t, true)
	s.verifiers["se"], s.verifiers["snp"] = challenger{}, fake{}
	for _, tc := range []struct{ tee, params, want, problem string }{
		{"se", "v1", "request for v1", ""}, {"snp", "v1", "", ""}, {"se", "", "", "no parameters"}, {"enigma", "", "", "not supported"},
	} {
		got, err := s.Challenge(t.Context(), tc.tee, tc.params)
		if got != tc.want || (err != nil) != (tc.problem != "") || err != nil && !strings.Contains(err.Error(), tc.problem) {
			t.Errorf("%+v: %q, %v", tc, got, err)
		}
	}
}

func FuzzStructuredRuntimeData(f *testing.F) {
	f.Add([]byte(`{"nonce":"AA","tee-pubkey":{"kty":"EC"}}`), "sha384")
	f.Add([]byte(`{"a":[1e400]}`), "")
	f.Add([]byte("{\"\xff\":1,\"a\":2,\"a\":3}"), "sha512")
	f.Fuzz(func(t *testing.T, text []byte, algorithm string) {
		r, err := StructuredRuntimeData(text, algorithm)
		if (err == nil) != (r != nil) || err != nil && !errors.Is(err, ErrSubmission) {
			t.Fatalf("%v, error %v", r, err)
		}
		if r == nil {
			return
		}
		again, err := json.Marshal(r.claims)
		if err != nil {
			t.Fatal(err)
		}
		same, err := StructuredRuntimeData(again, algorithm)
		if err != nil || !reflect.DeepEqual(same, r) {
			t.Fatalf("%s hashes differently when written again: %v", text, err)
		}
	})
}
