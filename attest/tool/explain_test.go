// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tool

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/attest/eventlog"
	"cocoon/attest/tee/snp"
	"cocoon/attest/tee/tdx"
	"cocoon/internal/sharedtest"
)

func file(t testing.TB, v any) string {
	t.Helper()
	raw, ok := v.([]byte)
	if !ok {
		var err error
		if raw, err = json.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(t.TempDir(), "evidence.json")
	if err := os.WriteFile(name, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// snpReport is one of a Milan, with the given bytes changed.
func snpReport(t testing.TB, change map[int]byte) snp.Evidence {
	t.Helper()
	b := make([]byte, 1184)
	b[0], b[0x188], b[0x189], b[0x1A0] = 3, 0x19, 1, 9
	for off, v := range change {
		b[off] = v
	}
	r, err := snp.ParseReport(b)
	if err != nil {
		t.Fatal(err)
	}
	return snp.Evidence{Report: r}
}

// tdQuote is a quote with the given bytes of its body changed.
func tdQuote(change map[int]byte, log []byte) tdx.Evidence {
	b := make([]byte, 48+584+4)
	b[0], b[4] = 4, 0x81
	for off, v := range change {
		b[48+off] = v
	}
	return tdx.Evidence{Quote: b, EventLog: log}
}

func TestAnOwnerReadsWhatThePlatformClaims(t *testing.T) {
	t.Parallel()
	log, err := eventlog.Join(nil, eventlog.Entry{Domain: "d", Operation: "o"}.Event(4, eventlog.SHA384).Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		tee      string
		evidence any
		want     []string
		not      string
	}{
		"a good SNP guest":  {"snp", snpReport(t, nil), []string{"AMD Milan", "debugging      forbidden", "migration      forbidden", "HOST_DATA is zero", "VMPL 0", "VCEK", "none comes along"}, "\n! "},
		"one to look into":  {"snp", snpReport(t, map[int]byte{0x0A: 0x08}), []string{"! debugging      ALLOWED"}, "! migration"},
		"one to be moved":   {"snp", snpReport(t, map[int]byte{0x0A: 0x04}), []string{"! migration      ALLOWED"}, "! debugging"},
		"of a paravisor":    {"snp", snpReport(t, map[int]byte{0x30: 1}), []string{"! privilege      VMPL 1"}, "! debugging"},
		"a masked chip":     {"snp", snpReport(t, map[int]byte{0x1A0: 0}), []string{"! chip id        masked"}, "! debugging"},
		"with initdata":     {"snp", snpReport(t, map[int]byte{0xC0: 0xAB}), []string{"HOST_DATA is ab00"}, "\n! "},
		"a good TDX guest":  {"tdx", tdQuote(nil, nil), []string{"Intel", "debugging      forbidden", "RTMR3          zero", "MRCONFIGID is zero", "none comes along"}, "\n! "},
		"a TD to look into": {"tdx", tdQuote(map[int]byte{120: 1}, nil), []string{"! debugging      ALLOWED"}, "\n! event"},
		"a log that lies":   {"tdx", tdQuote(nil, log), []string{"! event log      does not give the values of RTMR3"}, "! debugging"},
		"sample":            {"sample", []byte("{}"), []string{"! hardware  none: anybody"}, "Intel"},
	} {
		code, out, errs := runTool(t, "explain", "-tee", tc.tee, file(t, tc.evidence))
		if code != 0 || strings.Contains(out, tc.not) {
			t.Errorf("%s: exit %d: %s%s", name, code, out, errs)
		}
		for _, want := range tc.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", name, want, out)
			}
		}
	}
	if code, out, errs := runTool(t, "explain", "-socket", served(t)); code != 0 || !strings.Contains(out, "sample evidence.") {
		t.Errorf("by the agent: exit %d: %s%s", code, out, errs)
	}
}

func TestRealEvidenceIsExplained(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		tee  string
		want []string
	}{
		"snp/e2e-evidence.json":        {"snp", []string{"AMD Genoa", "forbidden"}},
		"az-snp-vtpm/evidence-v2.json": {"az-snp-vtpm", []string{"the paravisor was asked about 982f5c6e", "AMD", "PCR 11"}},
		"az-tdx-vtpm/evidence-v1.json": {"az-tdx-vtpm", []string{"Intel", "PCR 11"}},
		"tpm/tpm_evidence.json":        {"tpm", []string{"! hardware", "PCR 11"}},
	} {
		code, out, errs := runTool(t, "explain", "-tee", tc.tee, file(t, sharedtest.Read(t, "evidence/"+name)))
		for _, want := range tc.want {
			if code != 0 || !strings.Contains(out, want) {
				t.Errorf("%s: exit %d, no %q in\n%s%s", name, code, want, out, errs)
			}
		}
	}
}

func TestWhatCannotBeExplainedIsSaid(t *testing.T) {
	t.Parallel()
	empty := file(t, []byte("{}"))
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no TEE":         {[]string{empty}, 2, "-tee says"},
		"unknown TEE":    {[]string{"-tee", "sgx", empty}, 1, "cannot explain"},
		"no file":        {[]string{"-tee", "snp", empty + "x"}, 1, "no such file"},
		"no JSON":        {[]string{"-tee", "snp", file(t, []byte("x"))}, 1, "invalid character"},
		"an empty SNP":   {[]string{"-tee", "snp", empty}, 1, "snp evidence"},
		"an empty TDX":   {[]string{"-tee", "tdx", empty}, 1, "tdx evidence"},
		"an empty Azure": {[]string{"-tee", "az-snp-vtpm", empty}, 1, "no HCL report"},
		"an empty TPM":   {[]string{"-tee", "tpm", empty}, 1, "0 PCRs"},
		"rubbish as log": {[]string{"-tee", "tdx", file(t, tdQuote(nil, []byte("x")))}, 1, "event log"},
		"two files":      {[]string{"-tee", "tdx", empty, empty}, 2, "unexpected argument"},
		"no agent":       {[]string{"-socket", "unix:///nowhere"}, 1, "connect to the attestation agent"},
	} {
		if code, out, errs := runTool(t, append([]string{"explain"}, tc.args...)...); code != tc.code || out != "" || !strings.Contains(errs, tc.want) {
			t.Errorf("%s: exit %d: %s%s, want %q", name, code, out, errs, tc.want)
		}
	}
}

func FuzzExplain(f *testing.F) {
	for _, v := range []any{snpReport(f, nil), tdQuote(nil, nil)} {
		raw, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte(`{"version":2,"hcl_report":"SENMQQ==","tpm_quote":{"pcrs":["00"]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for tee, explain := range explainers() {
			if all, err := explain(raw); err == nil && len(all) == 0 {
				t.Errorf("%s: nothing was said", tee)
			}
		}
	})
}
