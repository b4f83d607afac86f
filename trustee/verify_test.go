// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/attest/tee/snp"
	"cocoon/internal/sharedtest"
)

func runVerify(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	a := &app{in: strings.NewReader(""), out: &o, errs: &e}
	code = a.run(t.Context(), append([]string{"verify", "--at", "2025-06-01T00:00:00Z"}, args...))
	return code, o.String(), e.String()
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestEvidenceIsComparedWithReferenceValues(t *testing.T) {
	t.Parallel()
	path := sharedtest.Path(t, "evidence/snp/e2e-evidence.json")
	code, out, errs := runVerify(t, path)
	for _, want := range []string{"signature", "holds", "not compared", "reported_tcb_bootloader", "snp_bootloader is missing"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Fatalf("exit %d, %q is missing in %s%s", code, want, out, errs)
		}
	}
	good := `{"snp_bootloader":[9,10],"snp_snp_svn":[23],"snp_tee_svn":[0],"snp_microcode":[25],"snp_smt_enabled":true,"snp_tsme_enabled":false,
"snp_guest_abi_major":0,"snp_guest_abi_minor":0,"snp_single_socket":false,"snp_smt_allowed":true,"snp_launch_measurement":["00"]}`
	code, out, errs = runVerify(t, "--reference", file(t, "values.json", good), path)
	if code != 1 || !strings.Contains(out, "snp_bootloader: ok") || !strings.Contains(out, "snp_launch_measurement: differs, wanted [00]") || !strings.Contains(errs, "has none: measurement\n") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
}

func TestEvidenceThatCannotBeVerifiedIsAnError(t *testing.T) {
	t.Parallel()
	report, err := json.Marshal(snp.Evidence{})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"absent":         {[]string{"/absent"}, "read evidence"},
		"unknown":        {[]string{file(t, "e", "{}")}, `no verifier for TEE ""`},
		"no JSON":        {[]string{file(t, "e", "x")}, `no verifier for TEE ""`},
		"another TEE":    {[]string{"--tee", "sample", file(t, "e", "{}")}, `no verifier for TEE "sample"`},
		"no report":      {[]string{file(t, "e", string(report))}, "attestation_report is missing"},
		"no quote":       {[]string{file(t, "e", `{"quote":""}`)}, "no TDX quote"},
		"report data":    {[]string{"--report-data", "xx", file(t, "e", "{}")}, "report data"},
		"no such values": {[]string{"--reference", "/absent", file(t, "e", "{}")}, "reference values"},
		"time":           {[]string{"--at", "yesterday", file(t, "e", "{}")}, "time of verification"},
	} {
		if code, out, errs := runVerify(t, tc.args...); code != 1 || !strings.Contains(errs, tc.want) {
			t.Errorf("%s: exit %d, %s%s", name, code, out, errs)
		}
	}
	if code, _, _ := runVerify(t); code != 2 {
		t.Errorf("without a file: exit %d", code)
	}
}

func TestAReferenceValueOfAnotherKindDoesNotFit(t *testing.T) {
	t.Parallel()
	list, single := reference{"c", "v", false}, reference{"c", "v", true}
	for name, tc := range map[string]struct {
		r     reference
		claim any
		want  string // JSON
		fits  bool
	}{
		"in a list": {list, 10, "[9,10]", true}, "a text in a list": {list, "10", `["10"]`, true}, "single": {single, true, "true", true},
		"a text for a number": {list, 10, `["10"]`, false}, "a number for a text": {list, "10", "[10]", false}, "not in the list": {list, 10, "[9]", false},
		"a list for a single": {single, true, "[true]", false}, "a single for a list": {list, 10, "10", false}, "another": {single, true, "false", false},
	} {
		var want any
		if err := json.Unmarshal([]byte(tc.want), &want); err != nil {
			t.Fatal(err)
		}
		if verdict, fits := tc.r.compare(tc.claim, map[string]any{"v": want}); fits != tc.fits {
			t.Errorf("%s: %q, %v", name, verdict, fits)
		}
	}
	if _, fits := list.compare(1, nil); fits {
		t.Error("a missing value fits")
	}
}

func TestEvidenceIsToldApartByItsMembers(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		`{"attestation_report":{},"cert_chain":null}`:                  "snp",
		`{"quote":"","cc_eventlog":null}`:                              "tdx",
		`{"version":2,"tpm_quote":{},"hcl_report":"","vcek":""}`:       "az-snp-vtpm",
		`{"quote":{},"report":[],"vcek":""}`:                           "az-snp-vtpm",
		`{"tpm_quote":{},"hcl_report":[],"td_quote":[]}`:               "az-tdx-vtpm",
		`{"attestation_report":{},"cert_chain":{},"serial_number":[]}`: "csv",
		`{"tpm_quote":{},"ak_public":""}`:                              "tpm",
		`{"token":[]}`:                                                 "cca", `{}`: "", `[]`: "", `x`: "",
	} {
		if got := teeOf([]byte(raw)); got != want {
			t.Errorf("%s looks like %q, want %q", raw, got, want)
		}
	}
}
