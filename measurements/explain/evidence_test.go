// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"cocoon/attest/eventlog"
	"cocoon/internal/sharedtest"
	"cocoon/measurements/tdx"
)

func TestRealEvidenceIsRead(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]struct{ tee, register, start, note string }{
		"snp/test-report.bin":          {"snp", "snp_launch_measurement", "a1f39304", ""},
		"snp/test-vlek-report.bin":     {"snp", "snp_host_data", "", "VMPL 1"},
		"snp/e2e-evidence.json":        {"snp", "snp_launch_measurement", "", ""},
		"tdx/tdx_quote_4.dat":          {"tdx", "mr_config_id", "0000", "debugged by the host"},
		"tdx/tdx_quote_5.dat":          {"tdx", "rtmr_1", "", ""},
		"az-snp-vtpm/evidence-v1.json": {"vtpm", "pcr11", "", "paravisor"},
		"az-tdx-vtpm/evidence-v1.json": {"vtpm", "pcr11", "", "paravisor"},
		"tpm/tpm_evidence.json":        {"vtpm", "pcr04", "", ""},
	} {
		r, err := Decode(sharedtest.Read(t, "evidence/"+file))
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		value, ok := r.Registers[want.register]
		if r.TEE != want.tee || !ok || !strings.HasPrefix(value, want.start) || !strings.Contains(strings.Join(r.Notes, "\n"), want.note) {
			t.Errorf("%s: %s, %s %q, notes %q", file, r.TEE, want.register, value, r.Notes)
		}
	}
}

// quote is one of TDX whose register number n has a value.
func quote(n int, value tdx.Register) []byte {
	b := make([]byte, 48+584+4)
	b[0], b[4] = 4, 0x81
	copy(b[48+328+48*n:], value[:])
	return b
}

func TestEvidenceIsFoundInsideThatOfSeveralDevices(t *testing.T) {
	t.Parallel()
	raw := fmt.Sprintf(`{"primary_evidence":{"quote":%q,"cc_eventlog":%q},"additional_evidence":"{}"}`,
		base64.StdEncoding.EncodeToString(quote(1, tdx.Register{1})), base64.StdEncoding.EncodeToString([]byte("log")))
	r, err := Decode([]byte(raw))
	if err != nil || r.TEE != "tdx" || !strings.HasPrefix(r.Registers["rtmr_1"], "01") || string(r.Log) != "log" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestWhatIsNoEvidenceIsRefused(t *testing.T) {
	t.Parallel()
	pcrs := strings.Repeat(`"00",`, 24) + `"00"`
	for name, raw := range map[string]string{
		"nothing":           "",
		"text":              "evidence",
		"cut report":        strings.Repeat("\x03", 1183),
		"report of version": strings.Repeat("\x09", 1184),
		"cut quote":         string(quote(0, tdx.Register{})[:600]),
		"large":             strings.Repeat("x", MaxEvidence+1),
		"cut JSON":          `{"quote":`,
		"list":              `["quote"]`,
		"other members":     `{"token":"x"}`,
		"no report":         `{"attestation_report":null}`,
		"report of text":    `{"attestation_report":"x"}`,
		"no quote":          `{"quote":""}`,
		"quote of numbers":  `{"quote":1}`,
		"inner text":        `{"primary_evidence":"x"}`,
		"inner inner":       `{"primary_evidence":{"primary_evidence":{"quote":""}}}`,
		"no registers":      `{"ak_public":"","tpm_quote":{"pcrs":[]}}`,
		"many registers":    `{"ak_public":"","tpm_quote":{"pcrs":[` + pcrs + `]}}`,
		"register of text":  `{"ak_public":"","tpm_quote":{"pcrs":["x"]}}`,
		"TPM of numbers":    `{"ak_public":1}`,
		"Azure of SNP":      `{"vcek":"","version":1}`,
		"Azure of TDX":      `{"td_quote":"","version":7}`,
	} {
		if r, err := Decode([]byte(raw)); !errors.Is(err, ErrEvidence) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

// logOf is an event log of registers, whose events are only digests.
func logOf(events map[uint32][]tdx.Register) []byte {
	b := eventlog.Header()
	for register := range uint32(5) {
		for _, d := range events[register] {
			b = eventlog.Event{Register: register, Type: 0xd, Digests: []eventlog.Digest{{Alg: eventlog.SHA384, Sum: d[:]}}}.Append(b)
		}
	}
	return b
}

// finding is what the answer says of a register.
func finding(a *Answer, register string) Finding {
	return a.Findings[slices.IndexFunc(a.Findings, func(f Finding) bool { return f.Register == register })]
}

func TestALogTellsTheRegistersOfTheMachine(t *testing.T) {
	t.Parallel()
	log := logOf(map[uint32][]tdx.Register{1: {{1}, {2}}, 4: {{3}}})
	replayed, err := tdx.Replay(log)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{"rtmr_0": hex.EncodeToString(replayed.Values[0][:]), "rtmr_3": hex.EncodeToString(replayed.Values[3][:])}
	for name, tc := range map[string]struct {
		log  []byte
		want Verdict
	}{"the guest's": {log, Expected}, "another": {logOf(map[uint32][]tdx.Register{1: {{1}}, 4: {{4}}}), Unknown}, "none": {nil, Unchecked}} {
		r := &Reported{TEE: "tdx", Registers: values, Log: tc.log}
		l, err := replay(r)
		if err != nil {
			t.Fatal(err)
		}
		var a Answer
		a.logged(r, l)
		for _, register := range []string{"rtmr_0", "rtmr_3"} {
			if f := finding(&a, register); f.Verdict != tc.want || len(f.Suspects) == 0 {
				t.Errorf("%s log: %+v", name, f)
			}
		}
	}
	if _, err := replay(&Reported{Log: []byte("no log")}); !errors.Is(err, ErrEvidence) {
		t.Errorf("no log: %v", err)
	}
}

func TestALogNamesTheFirstEventThatDiffers(t *testing.T) {
	t.Parallel()
	of := func(tdx.Boot) (tdx.Register, []tdx.Step, error) {
		return tdx.Register{}, []tdx.Step{{What: "kernel", Digest: tdx.Register{1}}, {What: "separator", Digest: tdx.Register{2}}}, nil
	}
	for name, tc := range map[string]struct {
		events []tdx.Register
		want   string
	}{
		"other":  {[]tdx.Register{{1}, {9}}, "event 2 of the log"},
		"cut":    {[]tdx.Register{{1}}, "ends where separator is expected"},
		"longer": {[]tdx.Register{{1}, {2}, {3}}, "goes on with"},
		"same":   {[]tdx.Register{{1}, {2}}, ""},
	} {
		l, err := replay(&Reported{Log: logOf(map[uint32][]tdx.Register{2: tc.events})})
		if err != nil {
			t.Fatal(err)
		}
		got := l.first(1, boot{}, of)
		if (tc.want == "") != (got == nil) || got != nil && !strings.Contains(got[0], tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	report := make([]byte, 1184)
	report[0] = 3
	f.Add(report)
	f.Add(quote(2, tdx.Register{1}))
	f.Add([]byte(`{"quote":"BAACAIEAAAA=","cc_eventlog":null}`))
	f.Add([]byte(`{"ak_public":"","tpm_quote":{"pcrs":["00","11"]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := Decode(raw)
		if err != nil {
			if !errors.Is(err, ErrEvidence) {
				t.Errorf("%v is no ErrEvidence", err)
			}
			return
		}
		if text, err := json.Marshal(r); err != nil || len(r.Registers) == 0 || !bytes.Contains(text, []byte(r.TEE)) {
			t.Errorf("%s: %v", text, err)
		}
	})
}
