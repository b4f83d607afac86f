// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/attest/tee/snp"
	"cocoon/internal/sharedtest"
	"cocoon/trustee/as"
	"cocoon/trustee/policy"
	"cocoon/trustee/verify/se"
)

func now() time.Time { return time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC) }

// judge evaluates real evidence with the default policy and the given
// reference values. The report data of the file belongs to no session that is
// known, so verification and judgement are tried one after the other.
func judge(t *testing.T, tee string, raw json.RawMessage, values map[string]any) map[string]any {
	t.Helper()
	all, err := New(Config{SNPCerts: t.TempDir(), SNPKeyService: "https://127.0.0.1:1", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return judgeBy(t, all, tee, raw, values)
}

// judgeOffline is judge without anything but the evidence.
func judgeOffline(t *testing.T, tee string, raw json.RawMessage) map[string]any {
	t.Helper()
	all, err := New(Config{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return judgeBy(t, all, tee, raw, nil)
}

func judgeBy(t *testing.T, all map[string]as.Verifier, tee string, raw json.RawMessage, values map[string]any) map[string]any {
	t.Helper()
	c, err := all[tee].Verify(t.Context(), raw, as.Binding{Unbound: true})
	if err != nil {
		t.Fatal(err)
	}
	return judgeClaims(t, map[string]any{tee: c.Values}, values)
}

// judgeClaims evaluates claims with the default policy.
func judgeClaims(t *testing.T, input, values map[string]any) map[string]any {
	t.Helper()
	p, err := policy.Compile(as.DefaultPolicies()["default_cpu"])
	if err != nil {
		t.Fatal(err)
	}
	lookup := func(name string) (any, bool) { v, ok := values[name]; return v, ok }
	e := policy.Eval{Input: input, Lookup: lookup}
	claims, ok, err := p.Value(t.Context(), "trust_claims", e)
	if err != nil || !ok {
		t.Fatalf("trust claims: %v, %v", ok, err)
	}
	m, ok := claims.(map[string]any)
	if !ok {
		t.Fatalf("trust claims are a %T", claims)
	}
	reasons, _, err := p.Value(t.Context(), "reasons", e)
	if err != nil {
		t.Fatal(err)
	}
	m["reasons"] = reasons
	return m
}

func number(t *testing.T, m map[string]any, name string) string {
	t.Helper()
	n, ok := m[name].(json.Number)
	if !ok {
		t.Fatalf("%s is a %T", name, m[name])
	}
	return n.String()
}

func TestRealSNPEvidenceIsJudgedByReferenceValues(t *testing.T) {
	t.Parallel()
	raw := sharedtest.Read(t, "evidence/snp/e2e-evidence.json")
	var e snp.Evidence
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatal(err)
	}
	values := func(change string, v any) map[string]any {
		m := map[string]any{
			"snp_launch_measurement": []any{hex.EncodeToString(e.Report.Measurement())}, "snp_bootloader": []any{10}, "snp_microcode": []any{25},
			"snp_snp_svn": []any{23}, "snp_tee_svn": []any{0}, "snp_smt_enabled": true, "snp_tsme_enabled": false,
			"snp_guest_abi_major": 0, "snp_guest_abi_minor": 0, "snp_single_socket": false, "snp_smt_allowed": true,
		}
		if change != "" {
			m[change] = v
		}
		return m
	}
	for name, tc := range map[string]struct {
		values map[string]any
		want   []string // executables, hardware, configuration
		reason string
	}{
		"all fit":             {values("", nil), []string{"3", "2", "2"}, ""},
		"another measurement": {values("snp_launch_measurement", []any{"00"}), []string{"33", "2", "2"}, "is not in reference value snp_launch_measurement"},
		"another firmware":    {values("snp_snp_svn", []any{24}), []string{"3", "97", "2"}, "is not in reference value snp_snp_svn"},
		"a value of no list":  {values("snp_bootloader", 10), []string{"3", "97", "2"}, "snp_bootloader is missing, expired, or no list"},
		"another setting":     {values("snp_smt_allowed", false), []string{"3", "2", "3"}, ""},
		"no reference values": {nil, []string{"33", "97", "3"}, "snp_launch_measurement is missing"},
	} {
		got := judge(t, "snp", raw, tc.values)
		vector := []string{number(t, got, "executables"), number(t, got, "hardware"), number(t, got, "configuration")}
		text, err := json.Marshal(got["reasons"])
		if err != nil || !slices.Equal(vector, tc.want) || !strings.Contains(string(text), tc.reason) {
			t.Errorf("%s: %v with %s (%v), want %v with %q", name, vector, text, err, tc.want, tc.reason)
		}
	}
}

func TestRealAzureEvidenceIsJudgedByReferenceValues(t *testing.T) {
	t.Parallel()
	raw := sharedtest.Read(t, "evidence/az-snp-vtpm/evidence-v2.json")
	all, err := New(Config{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	c, err := all["az-snp-vtpm"].Verify(t.Context(), raw, as.Binding{Unbound: true})
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	for name, claim := range map[string]string{
		"measurement": "measurement", "tcb_bootloader": "reported_tcb_bootloader", "tcb_microcode": "reported_tcb_microcode", "tcb_snp": "reported_tcb_snp",
		"tcb_tee": "reported_tcb_tee", "smt_enabled": "platform_smt_enabled", "tsme_enabled": "platform_tsme_enabled", "abi_major": "policy_abi_major",
		"abi_minor": "policy_abi_minor", "single_socket": "policy_single_socket", "smt_allowed": "policy_smt_allowed",
	} {
		values[name] = []any{c.Values[claim]}
	}
	pcrs, _ := c.Values["tpm"].(map[string]any)
	values["snp_pcr11"] = []any{pcrs["pcr11"]}
	values["snp_pcr12"] = []any{pcrs["pcr12"]}
	got := judge(t, "az-snp-vtpm", raw, values)
	if v := number(t, got, "executables") + number(t, got, "hardware") + number(t, got, "configuration"); v != "322" {
		t.Errorf("all fit: %v", got)
	}
	values["snp_pcr12"] = []any{strings.Repeat("00", 32)}
	got = judge(t, "az-snp-vtpm", raw, values)
	if text, err := json.Marshal(got["reasons"]); err != nil || number(t, got, "executables") != "33" || !strings.Contains(string(text), "beside the image") {
		t.Errorf("something beside the image: %v: %s", got, text)
	}
	values["snp_pcr11"] = []any{"00"}
	values["tcb_tee"] = []any{0} // a number, where this verifier has texts
	got = judge(t, "az-snp-vtpm", raw, values)
	if v := number(t, got, "executables") + number(t, got, "hardware") + number(t, got, "configuration"); v != "33972" {
		t.Errorf("two differ: %v", got)
	}
	// TDX: its collateral is not known here.
	got = judgeOffline(t, "az-tdx-vtpm", sharedtest.Read(t, "evidence/az-tdx-vtpm/evidence-v1.json"))
	text, err := json.Marshal(got["reasons"])
	if err != nil || number(t, got, "hardware") != "97" || !strings.Contains(string(text), "TCB status is Unknown") {
		t.Errorf("%v: %s", got, text)
	}
}

func TestAPlainTPMIsJudgedByItsKeyAndItsRegisters(t *testing.T) {
	t.Parallel()
	claims := map[string]any{"tpm": map[string]any{"pcr11": "11", "pcr12": "00", "pcr13": "00", "ak_public": "key"}}
	for name, tc := range map[string]struct {
		values map[string]any
		want   string // executables, hardware, configuration
		reason string
	}{
		"all fit":        {map[string]any{"tpm_pcr11": []any{"11"}, "trusted_aks": []any{"key"}}, "320", "[]"},
		"another kernel": {map[string]any{"tpm_pcr11": []any{"12"}, "trusted_aks": []any{"key"}}, "3320", "tpm_pcr11"},
		"another TPM":    {map[string]any{"tpm_pcr11": []any{"11"}, "trusted_aks": []any{"other"}}, "3320", "trusted_aks"},
		"nothing beside": {map[string]any{"tpm_pcr11": []any{"11"}, "tpm_pcr12": []any{"00"}, "tpm_pcr13": []any{"00"}, "trusted_aks": []any{"key"}}, "320", "[]"},
		"a command line": {map[string]any{"tpm_pcr11": []any{"11"}, "tpm_pcr12": []any{"01"}, "trusted_aks": []any{"key"}}, "3320", "beside the image: tpm_pcr12 00"},
		"an extension":   {map[string]any{"tpm_pcr11": []any{"11"}, "tpm_pcr13": []any{"01"}, "trusted_aks": []any{"key"}}, "3320", "tpm_pcr13"},
		"no list":        {map[string]any{"tpm_pcr11": []any{"11"}, "tpm_pcr12": "00", "trusted_aks": []any{"key"}}, "3320", "tpm_pcr12"},
		"no values":      {nil, "3320", "missing"},
	} {
		got := judgeClaims(t, claims, tc.values)
		text, err := json.Marshal(got["reasons"])
		if v := number(t, got, "executables") + number(t, got, "hardware") + number(t, got, "configuration"); err != nil || v != tc.want || !strings.Contains(string(text), tc.reason) {
			t.Errorf("%s: %s with %s (%v), want %s with %q", name, v, text, err, tc.want, tc.reason)
		}
	}
}

func TestACSVGuestIsJudgedByItsMeasurement(t *testing.T) {
	t.Parallel()
	claims := func(nodbg int) map[string]any {
		return map[string]any{"csv": map[string]any{"measure": "11", "policy": map[string]any{"nodbg": nodbg}}}
	}
	good := map[string]any{"csv_measure": []any{"11"}}
	for name, tc := range map[string]struct {
		claims, values map[string]any
		want, reason   string
	}{
		"all fit":        {claims(1), good, "322", "[]"},
		"another image":  {claims(1), map[string]any{"csv_measure": []any{"12"}}, "33236", "is not in reference value csv_measure"},
		"no values":      {claims(1), nil, "33236", "csv_measure is missing"},
		"one to look at": {claims(0), good, "3236", "debugged by the host"},
	} {
		got := judgeClaims(t, tc.claims, tc.values)
		text, err := json.Marshal(got["reasons"])
		if v := number(t, got, "executables") + number(t, got, "hardware") + number(t, got, "configuration"); err != nil || v != tc.want || !strings.Contains(string(text), tc.reason) {
			t.Errorf("%s: %s with %s (%v), want %s with %q", name, v, text, err, tc.want, tc.reason)
		}
	}
}

func TestASecureExecutionGuestIsJudgedByItsVerifier(t *testing.T) {
	t.Parallel()
	m := judgeClaims(t, map[string]any{"se": map[string]any{"tag": "aa"}}, nil)
	if got := number(t, m, "executables") + number(t, m, "hardware") + number(t, m, "configuration"); got != "322" || fmt.Sprint(m["reasons"]) != "[]" {
		t.Errorf("%s, %v", got, m["reasons"])
	}
}

func TestARealmIsJudgedByReferenceValues(t *testing.T) {
	t.Parallel()
	claims := map[string]any{"cca": map[string]any{
		"platform": map[string]any{
			"cca-platform-config": "cfg", "cca-platform-sw-components": []any{map[string]any{"measurement-value": "a"}, map[string]any{"measurement-value": "b"}},
		},
		"realm": map[string]any{"cca-realm-initial-measurement": "rim"},
	}}
	values := func(name string, list ...any) map[string]any {
		m := map[string]any{
			"cca_realm_initial_measurement": []any{"rim"}, "cca_platform_measurements": []any{"b", "a", "c"}, "cca_platform_config": []any{"cfg"},
		}
		if name != "" {
			m[name] = list
		}
		return m
	}
	for name, tc := range map[string]struct {
		values map[string]any
		want   string
		reason string
	}{
		"all fit":          {values(""), "3 2 2", ""},
		"another realm":    {values("cca_realm_initial_measurement", "x"), "33 2 2", "cca_realm_initial_measurement"},
		"another firmware": {values("cca_platform_measurements", "a"), "3 97 2", "cca_platform_measurements"},
		"another config":   {values("cca_platform_config", "x"), "3 2 36", "cca_platform_config"},
		"no values":        {nil, "33 97 36", "cca_platform_measurements"},
	} {
		m := judgeClaims(t, claims, tc.values)
		got := number(t, m, "executables") + " " + number(t, m, "hardware") + " " + number(t, m, "configuration")
		if reasons := fmt.Sprint(m["reasons"]); got != tc.want || !strings.Contains(reasons, tc.reason) || tc.reason == "" && reasons != "[]" {
			t.Errorf("%s: %s, %s", name, got, reasons)
		}
	}
}

func TestTPMsAndRealmsNeedTheirKeysListed(t *testing.T) {
	t.Parallel()
	all, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := all["tpm"]; ok {
		t.Error("there is a verifier that trusts no key")
	}
	if _, err := New(Config{TPMKeys: t.TempDir()}); err == nil {
		t.Error("a folder without keys was taken")
	}
	for _, tee := range []string{"cca", "se"} {
		if _, ok := all[tee]; ok {
			t.Errorf("there is a verifier for %s that trusts nobody", tee)
		}
	}
	if _, err := New(Config{SE: se.Config{HostKeys: t.TempDir()}}); err == nil {
		t.Error("a folder without host keys was taken")
	}
	if _, err := New(Config{CCAAnchors: filepath.Join(t.TempDir(), "absent")}); err == nil {
		t.Error("a file that is not there was taken")
	}
}
