// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/attest/tee/snp"
	"cocoon/internal/bounded"
	"cocoon/internal/sharedtest"
	"cocoon/trustee/as"
)

// now is a time at which every certificate of the test data is valid.
func now() time.Time { return time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC) }

// amd plays AMD: keys of a root, of the two below it, and of a processor.
type amd struct {
	roots Roots
	vcek  *x509.Certificate
	vlek  *x509.Certificate
	key   *ecdsa.PrivateKey // of both
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func issue(t *testing.T, name string, key, by *ecdsa.PrivateKey, parent *x509.Certificate, ext []pkix.Extension) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now().AddDate(-1, 0, 0), NotAfter: now().AddDate(1, 0, 0),
		BasicConstraintsValid: true, IsCA: ext == nil, ExtraExtensions: ext, SubjectKeyId: []byte(name),
	}
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func value(t *testing.T, v any) []byte {
	t.Helper()
	b, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// levels are the extensions of a key for the given firmware.
func levels(t *testing.T, tcb snp.TCB) []pkix.Extension {
	t.Helper()
	ext := []pkix.Extension{
		{Id: oid(3, 1), Value: value(t, int(tcb.Bootloader))}, {Id: oid(3, 2), Value: value(t, int(tcb.TEE))},
		{Id: oid(3, 3), Value: value(t, int(tcb.SNP))}, {Id: oid(3, 8), Value: value(t, int(tcb.Microcode))},
	}
	if tcb.FMC != nil {
		ext = append(ext, pkix.Extension{Id: oid(3, 9), Value: value(t, int(*tcb.FMC))})
	}
	return ext
}

func newAMD(t *testing.T, chip []byte, tcb snp.TCB) amd {
	t.Helper()
	root, ask, asvk, vek := newKey(t), newKey(t), newKey(t), newKey(t)
	a := amd{key: vek}
	a.roots.ARK = issue(t, "ARK", root, root, nil, nil)
	a.roots.ASK = issue(t, "ASK", ask, root, a.roots.ARK, nil)
	a.roots.ASVK = issue(t, "ASVK", asvk, root, a.roots.ARK, nil)
	a.vcek = issue(t, "SEV-VCEK", vek, ask, a.roots.ASK, append(levels(t, tcb), pkix.Extension{Id: oid(4), Value: value(t, chip)}))
	a.vlek = issue(t, "SEV-VLEK", vek, asvk, a.roots.ASVK, levels(t, tcb))
	return a
}

func (a amd) verifier(t *testing.T, p snp.Product, sources ...Source) *Verifier {
	t.Helper()
	v, err := New(Config{Roots: map[snp.Product]Roots{p: a.roots}, Sources: sources, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// sign signs a report as a processor does: P-384, numbers in little-endian.
func (a amd) sign(t *testing.T, r *snp.Report) {
	t.Helper()
	d := sha512.Sum384(r[:0x2A0])
	x, y, err := ecdsa.Sign(rand.Reader, a.key, d[:])
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range []*big.Int{x, y} {
		b := n.FillBytes(make([]byte, 72))
		for j, v := range b {
			r[0x2A0+i*72+71-j] = v
		}
	}
}

const milanTCB = "\x0a\x00\x00\x00\x00\x00\x18\x54"

// milan returns an unsigned report of a guest on Milan.
func milan() *snp.Report {
	var r snp.Report
	r[0] = 3
	copy(r[0x08:], []byte{31, 0, 3}) // ABI 0.31, SMT
	r[0x34] = 1                      // ECDSA P-384 with SHA-384
	r[0x40] = 1
	copy(r[0x50:], "report data")
	copy(r[0x90:], bytes.Repeat([]byte{7}, 48))
	copy(r[0xC0:], "host data")
	copy(r[0x180:], milanTCB)
	r[0x188], r[0x189] = 0x19, 1
	copy(r[0x1A0:], bytes.Repeat([]byte{9}, 64))
	return &r
}

func evidence(t *testing.T, r *snp.Report, certs ...snp.Cert) json.RawMessage {
	t.Helper()
	b, err := json.Marshal(snp.Evidence{Report: r, Certs: certs})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func binding() as.Binding {
	return as.Binding{ReportData: []byte("report data"), InitData: []byte("host data")}
}

func TestAReportOfAnySignerVerifies(t *testing.T) {
	t.Parallel()
	r := milan()
	a := newAMD(t, r.ChipID(), r.ReportedTCB())
	a.sign(t, r)
	vlek := *r
	vlek[0x48] = 4
	a.sign(t, &vlek)
	turin := *r
	turin[0], turin[0x188] = 5, 0x1A
	copy(turin[0x180:], []byte{1, 2, 3, 4, 0, 0, 0, 5})
	b := newAMD(t, turin.ChipID()[:8], turin.ReportedTCB())
	b.sign(t, &turin)
	for name, tc := range map[string]struct {
		v   *Verifier
		raw json.RawMessage
	}{
		"VCEK in the evidence": {a.verifier(t, snp.Milan), evidence(t, r, snp.Cert{Kind: snp.VCEK, Data: a.vcek.Raw})},
		"VCEK from a source":   {a.verifier(t, snp.Milan, Folder(t.TempDir()), fixed{a.vcek.Raw}), evidence(t, r)},
		"VLEK":                 {a.verifier(t, snp.Milan), evidence(t, &vlek, snp.Cert{Kind: snp.VLEK, Data: a.vlek.Raw})},
		"Turin":                {b.verifier(t, snp.Turin), evidence(t, &turin, snp.Cert{Kind: snp.VCEK, Data: b.vcek.Raw})},
	} {
		c, err := tc.v.Verify(t.Context(), tc.raw, binding())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c.Class != "cpu" || c.Values["measurement"] != strings.Repeat("07", 48) || c.Values["policy_abi_minor"] != 31 ||
			c.ReportData != hex.EncodeToString(r.ReportData()) || *c.InitData != hex.EncodeToString(r.HostData()) {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

type fixed struct{ der []byte }

func (f fixed) VCEK(context.Context, Key) ([]byte, error) { return f.der, nil }

func TestEvidenceThatDoesNotHoldIsRefused(t *testing.T) {
	t.Parallel()
	good := milan()
	a := newAMD(t, good.ChipID(), good.ReportedTCB())
	foreign := newAMD(t, good.ChipID(), good.ReportedTCB())
	vcek := snp.Cert{Kind: snp.VCEK, Data: a.vcek.Raw}
	signed := func(change func(r *snp.Report)) *snp.Report {
		r := milan()
		if change != nil {
			change(r)
		}
		a.sign(t, r)
		return r
	}
	expired := a.verifier(t, snp.Milan)
	expired.cfg.Now = func() time.Time { return now().AddDate(2, 0, 0) }
	plain := a.verifier(t, snp.Milan)
	for name, tc := range map[string]struct {
		v    *Verifier
		raw  json.RawMessage
		b    as.Binding
		want string
	}{
		"no JSON":            {plain, json.RawMessage("{"), binding(), "unexpected end"},
		"no report":          {plain, json.RawMessage("{}"), binding(), "attestation_report is missing"},
		"old firmware":       {plain, evidence(t, signed(func(r *snp.Report) { r[0] = 2 }), vcek), binding(), "version 2"},
		"unknown processor":  {plain, evidence(t, signed(func(r *snp.Report) { r[0x188] = 0x17 }), vcek), binding(), "unknown processor"},
		"other product":      {plain, evidence(t, signed(func(r *snp.Report) { r[0x189] = 0x11 }), vcek), binding(), "no root of trust for Genoa"},
		"privilege level":    {plain, evidence(t, signed(func(r *snp.Report) { r[0x30] = 1 }), vcek), binding(), "VMPL 1"},
		"other level":        {plain, evidence(t, signed(func(r *snp.Report) { r[0x180]-- }), vcek), binding(), "level of bootloader is 9"},
		"other chip":         {plain, evidence(t, signed(func(r *snp.Report) { r[0x1A0]++ }), vcek), binding(), "another processor"},
		"changed afterwards": {plain, evidence(t, func() *snp.Report { r := signed(nil); r[0x90]++; return r }(), vcek), binding(), "signature of the report"},
		"changed signature":  {plain, evidence(t, func() *snp.Report { r := signed(nil); r[0x2A0]++; return r }(), vcek), binding(), "signature of the report"},
		"foreign root":       {foreign.verifier(t, snp.Milan), evidence(t, signed(nil), vcek), binding(), "unknown authority"},
		"expired":            {expired, evidence(t, signed(nil), vcek), binding(), "expired"},
		"VCEK as VLEK":       {plain, evidence(t, signed(func(r *snp.Report) { r[0x48] = 4 }), snp.Cert{Kind: snp.VLEK, Data: a.vcek.Raw}), binding(), "unknown authority"},
		"VLEK as VCEK":       {plain, evidence(t, signed(nil), snp.Cert{Kind: snp.VCEK, Data: a.vlek.Raw}), binding(), "unknown authority"},
		"no certificate":     {plain, evidence(t, signed(nil)), binding(), "no source of VCEKs"},
		"no VLEK":            {plain, evidence(t, signed(func(r *snp.Report) { r[0x48] = 4 })), binding(), "lacks its VLEK"},
		"masked chip":        {plain, evidence(t, signed(func(r *snp.Report) { clear(r[0x1A0:0x1E0]) })), binding(), "masked"},
		"only a root":        {plain, evidence(t, signed(nil), snp.Cert{Kind: snp.ARK, Data: a.roots.ARK.Raw}), binding(), "has no VCEK"},
		"no certificate's":   {plain, evidence(t, signed(nil), snp.Cert{Kind: snp.VCEK, Data: []byte{1}}), binding(), "parse VCEK"},
		"absent in folder":   {a.verifier(t, snp.Milan, Folder(t.TempDir())), evidence(t, signed(nil)), binding(), "VCEK not found"},
		"other session":      {plain, evidence(t, signed(nil), vcek), as.Binding{ReportData: []byte("other")}, "not the digest of this session"},
		"no session":         {plain, evidence(t, signed(nil), vcek), as.Binding{}, "no report data to compare"},
		"other init data":    {plain, evidence(t, signed(nil), vcek), as.Binding{ReportData: []byte("report data"), InitData: []byte("other")}, "launched with the init data digest"},
	} {
		c, err := tc.v.Verify(t.Context(), tc.raw, tc.b)
		if !errors.Is(err, as.ErrEvidence) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, %v; want %q", name, c, err, tc.want)
		}
	}
}

func TestAKeyWithoutItsLevelsIsRefused(t *testing.T) {
	t.Parallel()
	r := milan()
	a := newAMD(t, r.ChipID(), r.ReportedTCB())
	k := newKey(t)
	for name, c := range map[string]*x509.Certificate{
		"no extension": a.roots.ASK,
		"no number":    issue(t, "x", k, k, nil, []pkix.Extension{{Id: oid(3, 1), Value: []byte("x")}}),
	} {
		if err := checkLevels(c, r.ReportedTCB()); err == nil {
			t.Errorf("levels: %s: accepted", name)
		}
	}
	if err := checkChip(a.vlek, r.ChipID()); err == nil {
		t.Error("a certificate without a chip id is accepted")
	}
}

func TestRealEvidenceVerifiesAndEachChangeIsNoticed(t *testing.T) {
	t.Parallel()
	raw := sharedtest.Read(t, "evidence/snp/e2e-evidence.json")
	v, err := New(Config{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	var e snp.Evidence
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), raw, as.Binding{ReportData: e.Report.ReportData()}); err != nil {
		t.Fatal(err)
	}
	for off := range 0x2A0 {
		if !fieldByte(off) {
			continue
		}
		changed := *e.Report
		changed[off] ^= 1
		if err := v.VerifyReport(t.Context(), &changed, e.Certs); err == nil {
			t.Errorf("byte %#x changed: accepted", off)
		}
	}
	for off := 0x2A0; off < 0x2A0+48; off++ {
		changed := *e.Report
		changed[off] ^= 1
		changed[off+72] ^= 1
		if err := v.VerifyReport(t.Context(), &changed, e.Certs); err == nil || !strings.Contains(err.Error(), "signature") {
			t.Errorf("signature byte %#x changed: %v", off, err)
		}
	}
}

// fieldByte leaves out some of the bytes of long fields: each field is tried.
func fieldByte(off int) bool { return off < 0x50 || off%8 == 3 || off > 0x180 && off < 0x1A0 }

func TestTheKeysOfRealProcessorsAreToldApart(t *testing.T) {
	t.Parallel()
	v, err := New(Config{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	r, err := snp.ParseReport(sharedtest.Read(t, "evidence/snp/test-report.bin"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"test-vcek.der": "", "test-vcek-invalid-legacy.der": "unknown authority", "test-vcek-invalid-new.der": "unknown authority"} {
		c, err := x509.ParseCertificate(sharedtest.Read(t, "evidence/snp/"+name))
		if err != nil {
			t.Fatal(err)
		}
		err = v.checkSigner(c, r, snp.Milan)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", name, err)
		}
		if want != "" {
			if err := checkChip(c, r.ChipID()); err == nil || !strings.Contains(err.Error(), "another processor") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	vlek, err := snp.ParseReport(sharedtest.Read(t, "evidence/snp/test-vlek-report.bin"))
	if err != nil {
		t.Fatal(err)
	}
	certs := []snp.Cert{{Kind: snp.VLEK, Data: sharedtest.Read(t, "evidence/snp/test-vlek.der")}}
	if err := v.VerifyReport(t.Context(), vlek, certs); err == nil || !strings.Contains(err.Error(), "VMPL 1") {
		t.Errorf("a report of VMPL 1: %v", err)
	}
	c, err := x509.ParseCertificate(certs[0].Data)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.checkSigner(c, vlek, snp.Milan); err != nil {
		t.Errorf("a provider's key: %v", err)
	}
}

func TestTheKeyServiceIsAskedOnceAndBounded(t *testing.T) {
	t.Parallel()
	r := milan()
	k := Key{Product: snp.Milan, HWID: r.ChipID(), TCB: r.ReportedTCB()}
	want := "/vcek/v1/Milan/" + strings.Repeat("09", 64) + "?blSPL=10&teeSPL=00&snpSPL=24&ucodeSPL=84"
	calls := 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if calls++; calls == 1 {
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		if got := req.URL.String(); got != want {
			t.Errorf("asked %s", got)
		}
		if _, err := w.Write([]byte("der")); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	dir := t.TempDir()
	s, kept := KDS{URL: server.URL, Client: server.Client(), Wait: time.Nanosecond}, Folder(dir)
	der, err := s.VCEK(t.Context(), k)
	if err != nil || string(der) != "der" {
		t.Fatalf("%q (%v)", der, err)
	}
	if err := kept.keep(k, der); err != nil {
		t.Fatal(err)
	}
	if der, err = kept.VCEK(t.Context(), k); err != nil || string(der) != "der" {
		t.Fatalf("kept %q (%v)", der, err)
	}
	other := k
	other.TCB.SNP++
	if _, err := kept.VCEK(t.Context(), other); !errors.Is(err, ErrNoVCEK) {
		t.Errorf("another level: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, strings.Repeat("09", 64), "vcek.der"), []byte("by hand"), 0o600); err != nil {
		t.Fatal(err)
	}
	if der, err := kept.VCEK(t.Context(), other); err != nil || string(der) != "by hand" {
		t.Errorf("%q (%v)", der, err)
	}
}

// answers is a Source that counts.
type answers struct {
	der   []byte
	asked *int
}

func (a answers) VCEK(context.Context, Key) ([]byte, error) { *a.asked++; return a.der, nil }

func TestOnlyACertificateThatHoldsIsKept(t *testing.T) {
	t.Parallel()
	r := milan()
	a, other := newAMD(t, r.ChipID(), r.ReportedTCB()), newAMD(t, r.ChipID(), r.ReportedTCB())
	a.sign(t, r)
	raw := evidence(t, r)
	kept, asked := Folder(t.TempDir()), 0
	verifier := func(der []byte) *Verifier {
		v := a.verifier(t, snp.Milan, kept, answers{der, &asked})
		v.cfg.Kept = kept
		return v
	}
	for name, der := range map[string][]byte{"rubbish": []byte("x"), "another AMD's": other.vcek.Raw} {
		if _, err := verifier(der).Verify(t.Context(), raw, binding()); !errors.Is(err, as.ErrEvidence) {
			t.Errorf("%s: %v", name, err)
		}
	}
	key := Key{Product: snp.Milan, HWID: r.ChipID(), TCB: r.ReportedTCB()}
	if _, err := kept.VCEK(t.Context(), key); !errors.Is(err, ErrNoVCEK) {
		t.Fatalf("something was kept: %v", err)
	}
	// What does not hold in the folder is replaced.
	if err := kept.keep(key, []byte("x")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := verifier(a.vcek.Raw).Verify(t.Context(), raw, binding()); err != nil {
			t.Fatal(err)
		}
	}
	if der, err := kept.VCEK(t.Context(), key); err != nil || !bytes.Equal(der, a.vcek.Raw) || asked != 3 {
		t.Errorf("kept %.20x after %d questions (%v)", der, asked, err)
	}
}

func TestAKeyServiceThatMisbehavesIsAnError(t *testing.T) {
	t.Parallel()
	k := Key{Product: snp.Milan, HWID: []byte{1}}
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		calls  int
		want   string
	}{
		"absent":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, 1, "VCEK not found"},
		"busy":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }, kdsTries, "429"},
		"broken":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, kdsTries, "500"},
		"refused": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, 1, "403"},
		"endless": {func(w http.ResponseWriter, _ *http.Request) {
			w.Write(make([]byte, 2*maxCert)) //nolint:errcheck // the client hangs up in the middle
		}, 1, bounded.ErrTooLarge.Error()},
	} {
		calls := 0
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { calls++; tc.answer(w, r) }))
		_, err := KDS{URL: server.URL, Client: server.Client(), Wait: time.Nanosecond}.VCEK(t.Context(), k)
		server.Close()
		if err == nil || !strings.Contains(err.Error(), tc.want) || calls != tc.calls {
			t.Errorf("%s: %v after %d calls", name, err, calls)
		}
	}
	_, err := KDS{URL: "https://127.0.0.1:1", Client: http.DefaultClient, Wait: time.Nanosecond}.VCEK(t.Context(), k)
	if err == nil || !strings.Contains(err.Error(), "ask the key service") {
		t.Errorf("unreachable: %v", err)
	}
}

func FuzzEvidence(f *testing.F) {
	text, err := json.Marshal(snp.Evidence{Report: milan(), Certs: []snp.Cert{{Kind: snp.VCEK, Data: []byte{0x30, 0}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	v, err := New(Config{Now: now})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, err := v.Verify(t.Context(), raw, as.Binding{Unbound: true}); err == nil {
			t.Errorf("accepted: %+v", c)
		}
	})
}
