// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"cocoon/internal/sharedtest"
)

// made returns a report of the given version and processor in which every byte
// of every field is another. The areas between the fields are zero, as in real ones.
func made(version uint32, family, model byte) *Report {
	var r Report
	next := byte(1)
	for _, m := range members() {
		n := int(m.kind)
		switch m.kind {
		case number8:
			n = 1
		case number32:
			n = 4
		case number64:
			n = 8
		case levels:
			continue
		case firmware:
			n = 3
		case signed:
			n = 2 * scalar
		}
		if version < m.since {
			continue
		}
		for i := range n {
			r[m.off+i] = next
			next++
		}
	}
	copy(r[offVersion:], []byte{byte(version), 0, 0, 0})
	if version >= 3 {
		r[offFamily], r[offModel] = family, model
	}
	for _, off := range []int{0x38, offReportedTCB, 0x1E0, 0x1F0} {
		if family == 0x1A {
			copy(r[off:], []byte{5, 10, 1, 24, 0, 0, 0, 84})
		} else {
			copy(r[off:], []byte{10, 1, 0, 0, 0, 0, 24, 84})
		}
	}
	return &r
}

func TestAReportSurvivesItsJSONForm(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]*Report{
		"version 2": made(2, 0, 0), "Milan": made(3, 0x19, 1), "Genoa": made(4, 0x19, 0x11), "Siena": made(5, 0x19, 0xA0), "Turin": made(5, 0x1A, 2),
	} {
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var back Report
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if back != *r {
			for i := range r {
				if back[i] != r[i] {
					t.Fatalf("%s: byte %#x was %#x and is %#x", name, i, r[i], back[i])
				}
			}
		}
		if r.Version() < 3 && !strings.Contains(string(text), `"cpuid_fam_id":null`) {
			t.Errorf("%s: %s", name, text)
		}
	}
}

func TestTheJSONFormIsThatOfThePeers(t *testing.T) {
	t.Parallel()
	raw := sharedtest.Read(t, "evidence/snp/e2e-evidence.json")
	var e Evidence
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var want, got map[string]any
	if err := errors.Join(json.Unmarshal(raw, &want), json.Unmarshal(again, &got)); err != nil {
		t.Fatal(err)
	}
	// The peer that made this file did not know the fields of version 5.
	for _, name := range []string{"launch_mit_vector", "current_mit_vector"} {
		report, _ := got["attestation_report"].(map[string]any)
		if v, ok := report[name]; !ok || v != nil {
			t.Errorf("%s is %v", name, v)
		}
		delete(report, name)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", again, raw)
	}
}

func TestFieldsOfRealReports(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct {
		version, vmpl uint32
		vlek          bool
		tcb           TCB
		product       Product
	}{
		"test-report.bin":      {2, 0, false, TCB{Bootloader: 3, SNP: 8, Microcode: 0x73}, ""},
		"test-vlek-report.bin": {3, 1, true, TCB{Bootloader: 4, SNP: 0x18, Microcode: 0xd9}, Milan},
	} {
		r, err := ParseReport(sharedtest.Read(t, "evidence/snp/"+name))
		if err != nil {
			t.Fatal(err)
		}
		p, err := r.Product()
		if r.Version() != want.version || r.VMPL() != want.vmpl || r.SignedByVLEK() != want.vlek || p != want.product || (err == nil) != (p != "") {
			t.Errorf("%s: version %d, vmpl %d, vlek %v, %q (%v)", name, r.Version(), r.VMPL(), r.SignedByVLEK(), p, err)
		}
		if got := r.ReportedTCB(); got != want.tcb {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestWhatIsNoReportIsRefused(t *testing.T) {
	t.Parallel()
	valid, err := json.Marshal(made(3, 0x19, 1))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"not an object":  {string(valid), `[1]`},
		"no version":     {`"version":3,`, ``},
		"version 1":      {`"version":3,`, `"version":1,`},
		"version 6":      {`"version":3,`, `"version":6,`},
		"short":          {`"family_id":[`, `"family_id":[]`},
		"text as bytes":  {`"chip_id":[`, `"chip_id":"","x":[`},
		"too large":      {`"chip_id":[`, `"chip_id":[256,`},
		"too long":       {`"chip_id":[`, `"chip_id":[1,`},
		"a null":         {`"guest_svn":`, `"guest_svn":null,"x":`},
		"no processor":   {`"cpuid_fam_id":`, `"cpuid_fam_id":null,"x":`},
		"half a number":  {`"guest_svn":`, `"guest_svn":1.5,"x":`},
		"Turin's levels": {`"launch_tcb":{"fmc":null`, `"launch_tcb":{"fmc":1`},
		"a short scalar": {`{"r":[`, `{"r":[],"x":[`},
	} {
		text := strings.Replace(string(valid), change[0], change[1], 1)
		if text == string(valid) {
			t.Fatalf("%s: nothing changed", name)
		}
		var r Report
		if err := json.Unmarshal([]byte(text), &r); err == nil {
			t.Errorf("%s: was accepted", name)
		}
	}
	if _, err := ParseReport(make([]byte, ReportSize-1)); !errors.Is(err, ErrReport) {
		t.Errorf("short: %v", err)
	}
	for _, fms := range [][2]byte{{0x19, 0x20}, {0x1A, 0x12}, {0x17, 1}} {
		if p, err := made(3, fms[0], fms[1]).Product(); !errors.Is(err, ErrProduct) {
			t.Errorf("%#x: %q, %v", fms, p, err)
		}
	}
}

// table returns a table of certificates with the given kinds.
func table(guids ...string) []byte {
	room := (len(guids) + 1) * certEntrySize
	b := make([]byte, room)
	for i, guid := range guids {
		entry := b[i*certEntrySize:]
		for j := range 16 {
			const digits = "0123456789abcdef"
			entry[j] = byte(strings.IndexByte(digits, guid[2*j])<<4 | strings.IndexByte(digits, guid[2*j+1]))
		}
		entry[16], entry[17], entry[20] = byte(len(b)), byte(len(b)>>8), 3
		b = append(b, byte(i), 'o', 'k')
	}
	return b
}

const (
	guidVCEK = "63da758de6644564adc5f4b93be8accd"
	guidASK  = "4ab7b379bbac4fe4a02f05aef327c782"
	guidXtra = "ecae0c0f950243b1afa20ae2e0d565b6"
)

func TestTheTableOfCertificatesIsRead(t *testing.T) {
	t.Parallel()
	got, err := parseCertTable(table(guidASK, guidXtra, guidVCEK))
	want := []Cert{{ASK, Octets{0, 'o', 'k'}}, {VCEK, Octets{2, 'o', 'k'}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for name, b := range map[string][]byte{"none": nil, "empty": make([]byte, 4096), "no signer": table(guidASK)} {
		if got, err := parseCertTable(b); err != nil || got != nil {
			t.Errorf("%s: %v, %v; a verifier refuses a chain without the signer and fetches one for null", name, got, err)
		}
	}
	endless := bytes.Repeat(table(guidASK)[:certEntrySize], 40)
	outside := table(guidVCEK)
	outside[16] = 0xff
	for name, b := range map[string][]byte{"no end": endless, "outside": outside, "cut": table(guidVCEK)[:certEntrySize+4]} {
		if got, err := parseCertTable(b); !errors.Is(err, ErrCertTable) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func FuzzReportJSON(f *testing.F) {
	for _, r := range []*Report{made(2, 0, 0), made(3, 0x19, 1), made(5, 0x1A, 2)} {
		text, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var r Report
		if json.Unmarshal(text, &r) != nil {
			return
		}
		again, err := json.Marshal(&r)
		if err != nil {
			t.Fatal(err)
		}
		var back Report
		if err := json.Unmarshal(again, &back); err != nil || back != r {
			t.Errorf("%v: the report changed", err)
		}
	})
}

func FuzzCertTable(f *testing.F) {
	f.Add(table(guidASK, guidVCEK))
	f.Add(make([]byte, 48))
	f.Fuzz(func(t *testing.T, b []byte) {
		certs, err := parseCertTable(b)
		if err == nil && len(certs) > maxCerts {
			t.Errorf("%d certificates", len(certs))
		}
	})
}
