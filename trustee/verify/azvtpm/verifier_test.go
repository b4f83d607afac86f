// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package azvtpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"cocoon/attest/eventlog"
	"cocoon/attest/tee/azvtpm"
	"cocoon/attest/tee/azvtpm/azvtpmtest"
	"cocoon/attest/tee/snp"
	"cocoon/attest/tee/tdx"
	"cocoon/attest/tee/tpm"
	"cocoon/internal/sharedtest"
	"cocoon/trustee/as"
	verifysnp "cocoon/trustee/verify/snp"
	verifytdx "cocoon/trustee/verify/tdx"
)

func now() time.Time { return time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC) }

// accepting stands for the verifiers of the hardware, which have tests of their
// own.
type accepting struct {
	err   error
	quote *tdx.Quote
}

func (a accepting) VerifyReport(context.Context, *snp.Report, []snp.Cert) error { return a.err }

func (a accepting) Standing(context.Context, []byte) (*tdx.Quote, map[string]any, error) {
	return a.quote, map[string]any{"tcb_status": "UpToDate"}, a.err
}

// guest plays a guest with its TPM.
type guest struct {
	key *rsa.PrivateKey
	// What the next evidence is made of.
	nonce, user []byte
	kind        uint32
	pcrs        [][]byte
	selection   []byte
	typ         tpm2.TPMST
}

func newGuest(t *testing.T) guest {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	g := guest{key: key, nonce: []byte("digest"), user: []byte("digest"), kind: azvtpm.SNP, selection: []byte{0xff, 0xff, 0xff}, typ: tpm2.TPMSTAttestQuote}
	for i := range tpm.PCRs {
		sum := sha256.Sum256([]byte{byte(i)})
		g.pcrs = append(g.pcrs, sum[:])
	}
	bound := sha256.Sum256(append(make([]byte, 32), bytes.Repeat([]byte{7}, 32)...))
	g.pcrs[tpm.InitPCR] = bound[:]
	return g
}

func (g guest) message() []byte {
	h := sha256.New()
	for _, p := range g.pcrs {
		h.Write(p) //nolint:errcheck // a hash does not fail
	}
	return tpm2.Marshal(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: g.typ, ExtraData: tpm2.TPM2BData{Buffer: g.nonce},
		Attested: tpm2.NewTPMUAttest(g.typ, &tpm2.TPMSQuoteInfo{
			PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: g.selection}}},
			PCRDigest: tpm2.TPM2BDigest{Buffer: h.Sum(nil)},
		}),
	})
}

func (g guest) hcl() []byte {
	n := base64.RawURLEncoding.EncodeToString(g.key.N.Bytes())
	e := base64.RawURLEncoding.EncodeToString(big.NewInt(int64(g.key.E)).Bytes())
	data := fmt.Appendf(nil, `{"keys":[{"kid":"HCLAkPub","kty":"RSA","n":%q,"e":%q}],"user-data":"%X"}`, n, e, append(bytes.Clone(g.user), make([]byte, 64-len(g.user))...))
	b := make([]byte, 1236)
	copy(b, "HCLA")
	b[32] = 3
	sum := sha256.Sum256(data)
	copy(b[32+0x50:], sum[:])
	if g.kind == azvtpm.TDX {
		clear(b[32+0x50:][:32])
		copy(b[32+tdDataOff:], sum[:])
	}
	for i, v := range []uint32{0, 1, g.kind, 1, uint32(len(data))} {
		binary.LittleEndian.PutUint32(b[1216+4*i:], v)
	}
	return append(b, data...)
}

func (g guest) evidence(t *testing.T, change func(e *azvtpm.Evidence)) json.RawMessage {
	t.Helper()
	e := azvtpm.Evidence{Version: 2, HCL: g.hcl(), VCEK: []byte("vcek")}
	e.Quote.Message = g.message()
	sum := sha256.Sum256(e.Quote.Message)
	sig, err := rsa.SignPKCS1v15(rand.Reader, g.key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	e.Quote.Signature = sig
	for _, p := range g.pcrs {
		e.Quote.PCRs = append(e.Quote.PCRs, bytes.Clone(p))
	}
	if change != nil {
		change(&e)
	}
	raw, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func binding() as.Binding {
	return as.Binding{ReportData: []byte("digest"), InitData: bytes.Repeat([]byte{7}, 32)}
}

func TestAChainFromHardwareToSessionIsAccepted(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	c, err := SNP{accepting{}}.Verify(t.Context(), g.evidence(t, nil), binding())
	if err != nil {
		t.Fatal(err)
	}
	pcrs, _ := c.Values["tpm"].(map[string]any)
	if c.ReportData != hex.EncodeToString([]byte("digest")) || *c.InitData != hex.EncodeToString(g.pcrs[8]) || pcrs["pcr11"] != hex.EncodeToString(g.pcrs[11]) ||
		c.Values["policy_debug_allowed"] != "false" || c.Values["chip_id"] != nil {
		t.Errorf("%+v", c)
	}
	g.kind = azvtpm.TDX
	h, err := azvtpm.ParseHCL(g.hcl())
	if err != nil {
		t.Fatal(err)
	}
	q := tdQuote(t, h.Hardware[tdDataOff:][:64])
	if c, err = (TDX{accepting{quote: q}}).Verify(t.Context(), g.evidence(t, nil), binding()); err != nil || c.Values["tcb_status"] != "UpToDate" {
		t.Errorf("TDX: %+v, %v", c, err)
	}
	if _, err = (TDX{accepting{quote: tdQuote(t, []byte("other"))}}).Verify(t.Context(), g.evidence(t, nil), binding()); !errors.Is(err, as.ErrEvidence) || !strings.Contains(err.Error(), "another report") {
		t.Errorf("a quote of another machine: %v", err)
	}
}

func tdQuote(t *testing.T, data []byte) *tdx.Quote {
	t.Helper()
	b := make([]byte, 48+584+4)
	b[0], b[4] = 4, 0x81
	copy(b[48+520:], data)
	q, err := tdx.ParseQuote(b)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestAChainWithABrokenLinkIsRefused(t *testing.T) {
	t.Parallel()
	good, other := newGuest(t), newGuest(t)
	with := func(f func(g *guest)) guest { g := good; f(&g); return g }
	for name, tc := range map[string]struct {
		raw  json.RawMessage
		b    as.Binding
		want string
	}{
		"no JSON":           {json.RawMessage("x"), binding(), "invalid character"},
		"version 0":         {json.RawMessage(`{"version":0}`), binding(), "version 0"},
		"version 3":         {good.evidence(t, func(e *azvtpm.Evidence) { e.Version = 3 }), binding(), "version 3"},
		"an old form":       {json.RawMessage("{}"), binding(), "no certificate in PEM"},
		"half an old form":  {json.RawMessage(`{"vcek":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}`), binding(), "no HCL report"},
		"old with text":     {json.RawMessage(`{"report":"SENMQQ=="}`), binding(), "list of numbers"},
		"a log that lies":   {good.evidence(t, func(e *azvtpm.Evidence) { e.EventLog = logAbout(t, 15) }), binding(), "PCR 15 is"},
		"no HCL":            {good.evidence(t, func(e *azvtpm.Evidence) { e.HCL = nil }), binding(), "no HCL report"},
		"other hardware":    {with(func(g *guest) { g.kind = azvtpm.TDX }).evidence(t, nil), binding(), "hardware type 4"},
		"another key":       {good.evidence(t, func(e *azvtpm.Evidence) { e.HCL = other.hcl() }), binding(), "signature"},
		"a changed message": {good.evidence(t, func(e *azvtpm.Evidence) { e.Quote.Message[20] ^= 1 }), binding(), "signature"},
		"a changed PCR":     {good.evidence(t, func(e *azvtpm.Evidence) { e.Quote.PCRs[11][0] ^= 1 }), binding(), "not those that were signed"},
		"a missing PCR":     {good.evidence(t, func(e *azvtpm.Evidence) { e.Quote.PCRs = e.Quote.PCRs[1:] }), binding(), "23 PCRs"},
		"a short PCR":       {good.evidence(t, func(e *azvtpm.Evidence) { e.Quote.PCRs[3] = e.Quote.PCRs[3][1:] }), binding(), "PCR 3 has 31"},
		"some PCRs":         {with(func(g *guest) { g.selection = []byte{0xff, 0xff, 0x7f} }).evidence(t, nil), binding(), "not about all PCRs"},
		"changed user data": {good.evidence(t, func(e *azvtpm.Evidence) {
			e.HCL = bytes.Replace(e.HCL, []byte(`"user-data":"6`), []byte(`"user-data":"7`), 1)
		}), binding(), "another session than the TPM quote"},
		"another's data":      {good.evidence(t, func(e *azvtpm.Evidence) { e.HCL[32+0x50] ^= 1 }), binding(), "other data of the paravisor"},
		"another session":     {with(func(g *guest) { g.nonce = []byte("old") }).evidence(t, nil), binding(), "not about the digest"},
		"a padded digest":     {with(func(g *guest) { g.nonce = append([]byte("digest"), 0) }).evidence(t, nil), binding(), "not about the digest"},
		"no nonce":            {with(func(g *guest) { g.nonce = nil }).evidence(t, nil), as.Binding{Unbound: true}, "another session than the TPM quote"},
		"other init data":     {good.evidence(t, nil), as.Binding{ReportData: []byte("digest"), InitData: make([]byte, 32)}, "PCR 8 is"},
		"init data by SHA384": {good.evidence(t, nil), as.Binding{ReportData: []byte("digest"), InitData: make([]byte, 48)}, "one of SHA-256 only"},
	} {
		c, err := SNP{accepting{}}.Verify(t.Context(), tc.raw, tc.b)
		if !errors.Is(err, as.ErrEvidence) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, %v; want %q", name, c, err, tc.want)
		}
	}
	if _, err := (SNP{accepting{err: errors.New("not AMD's")}}).Verify(t.Context(), good.evidence(t, nil), binding()); !errors.Is(err, as.ErrEvidence) {
		t.Errorf("a report that does not hold: %v", err)
	}
}

// logAbout is an event log with one entry.
func logAbout(t *testing.T, register uint32) []byte {
	t.Helper()
	log, err := eventlog.Join(nil, eventlog.Entry{Domain: "d", Operation: "o"}.Event(register, eventlog.SHA256).Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func TestAGuestOfTheParavisorIsAccepted(t *testing.T) {
	t.Parallel()
	p := azvtpmtest.New(t, azvtpm.SNP)
	p.Late = 1
	dir := t.TempDir()
	g := azvtpm.Guest{Attester: azvtpm.NewAttester(azvtpm.SNP, p, vcek{}, filepath.Join(dir, eventlog.File)), TPM: p.TPM}
	if err := g.BindInitData(t.Context(), binding().InitData); err != nil {
		t.Fatal(err)
	}
	regs, err := g.Registers()
	if err != nil {
		t.Fatal(err)
	}
	j, err := eventlog.Open(t.Context(), dir, regs)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Measure(t.Context(), g.MapPCR(17), eventlog.Entry{Domain: "d", Operation: "o"}); err != nil {
		t.Error(err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	raw, err := g.Evidence(t.Context(), binding().ReportData)
	if err != nil {
		t.Fatal(err)
	}
	c, err := SNP{accepting{}}.Verify(t.Context(), raw, binding())
	if err != nil {
		t.Fatal(err)
	}
	if log, _ := c.Values["uefi_event_logs"].([]any); len(log) != 1 {
		t.Errorf("%+v", c.Values)
	}
	if _, err := (SNP{accepting{}}).Verify(t.Context(), raw, as.Binding{ReportData: []byte("another")}); !errors.Is(err, as.ErrEvidence) {
		t.Errorf("for another session: %v", err)
	}
}

// vcek is Azure's metadata service.
type vcek struct{}

func (vcek) VCEK(context.Context) ([]byte, error)            { return []byte("vcek"), nil }
func (vcek) TDQuote(context.Context, []byte) ([]byte, error) { return nil, errors.ErrUnsupported }

func TestRealEvidenceVerifiesAndEachChangeIsNoticed(t *testing.T) {
	t.Parallel()
	reports, err := verifysnp.New(verifysnp.Config{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	quotes, err := verifytdx.New(verifytdx.Config{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	nonce, err := hex.DecodeString("982f5c6e45df0ed3f10b6f60b02f0c8390e281300f3805e2279c16168cd6ae9aa398f647caa2338748cd0fd9f5f819ef")
	if err != nil {
		t.Fatal(err)
	}
	for file, tc := range map[string]struct {
		v     as.Verifier
		nonce []byte
	}{
		"az-snp-vtpm/evidence-v2.json": {SNP{reports}, nonce},
		"az-snp-vtpm/evidence-v1.json": {SNP{reports}, []byte("challenge")},
		"az-snp-vtpm/evidence-v0.json": {SNP{reports}, []byte("challenge")},
		"az-tdx-vtpm/evidence-v1.json": {TDX{quotes}, []byte("challenge")},
		"az-tdx-vtpm/evidence-v0.json": {TDX{quotes}, []byte("challenge")},
	} {
		raw := sharedtest.Read(t, "evidence/"+file)
		if _, err := tc.v.Verify(t.Context(), raw, as.Binding{ReportData: tc.nonce}); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if _, err := tc.v.Verify(t.Context(), raw, as.Binding{ReportData: []byte("x")}); !errors.Is(err, as.ErrEvidence) {
			t.Errorf("%s for another session: %v", file, err)
		}
		kind := uint32(azvtpm.SNP)
		if _, ok := tc.v.(TDX); ok {
			kind = azvtpm.TDX
		}
		e, err := Parse(raw, kind)
		if err != nil {
			t.Fatal(err)
		}
		if e.Version > 0 {
			eachChange(t, file, tc.v, e, as.Binding{ReportData: tc.nonce})
		}
	}
}

// eachChange flips a bit in every seventh byte of all that matters.
func eachChange(t *testing.T, file string, v as.Verifier, e azvtpm.Evidence, b as.Binding) {
	t.Helper()
	h, err := azvtpm.ParseHCL(e.HCL)
	if err != nil {
		t.Fatal(err)
	}
	q, err := tdx.ParseQuote(e.TDQuote)
	if err != nil && e.TDQuote != nil {
		t.Fatal(err)
	}
	fields := map[string][]byte{"signature": e.Quote.Signature, "message": e.Quote.Message, "PCR 0": e.Quote.PCRs[0], "PCR 23": e.Quote.PCRs[23], "variable data": h.VarData}
	if q != nil {
		// The start of a quote says what it is and how long; then what is signed.
		fields["TD quote"] = e.TDQuote[8:len(q.Signed)]
		fields["report data"] = h.Hardware[tdDataOff:][:tdx.DataSize]
	} else {
		fields["hardware report"] = h.Hardware[:0x2A0]
	}
	for what, field := range fields {
		for off := 0; off < len(field); off += 7 {
			field[off] ^= 1
			raw, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := v.Verify(t.Context(), raw, b); !errors.Is(err, as.ErrEvidence) {
				t.Errorf("%s: %s, byte %d: %v", file, what, off, err)
			}
			field[off] ^= 1
		}
	}
}

func FuzzEvidence(f *testing.F) {
	f.Add([]byte(`{"version":2,"tpm_quote":{"signature":"00","message":"ff544347","pcrs":["00"]},"hcl_report":"SENMQQ==","vcek":""}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, err := (SNP{accepting{}}).Verify(t.Context(), raw, as.Binding{Unbound: true}); err == nil {
			t.Errorf("accepted: %+v", c)
		}
		if c, err := (TDX{accepting{err: errors.New("no quote")}}).Verify(t.Context(), raw, as.Binding{Unbound: true}); err == nil {
			t.Errorf("accepted: %+v", c)
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add(guest{typ: tpm2.TPMSTAttestQuote, selection: []byte{1}}.message())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := tpm2.Unmarshal[tpm2.TPMSAttest](b)
		if err != nil || a.Type != tpm2.TPMSTAttestQuote {
			return
		}
		if _, err := a.Attested.Quote(); err != nil {
			t.Errorf("a quote without its information: %v", err)
		}
	})
}
