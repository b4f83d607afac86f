// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tpm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"go.uber.org/goleak"

	"cocoon/attest/eventlog"
	"cocoon/attest/tee/tpm"
	"cocoon/attest/tee/tpm/tpmtest"
	"cocoon/internal/sharedtest"
	"cocoon/trustee/as"
	verifytpm "cocoon/trustee/verify/tpm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// keys is a folder with files of the given names and contents.
func keys(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func asPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// guest is one with a software TPM, and a verifier that trusts it.
type guest struct {
	*tpm.Attester
	dir string
	v   *verifytpm.Verifier
}

func newGuest(t *testing.T) guest {
	t.Helper()
	s := tpmtest.Start(t)
	s.Talk(t, func(c transport.TPM) error {
		_, err := tpmtest.Keep(c, tpm.AK, tpmtest.AK())
		return err
	})
	dir := t.TempDir()
	g := guest{Attester: tpm.NewAttester(tpm.New(s.Open), tpm.AK, filepath.Join(dir, eventlog.File)), dir: dir}
	var e tpm.Evidence
	if err := json.Unmarshal(g.evidence(t), &e); err != nil {
		t.Fatal(err)
	}
	v, err := verifytpm.New(keys(t, map[string][]byte{"guest.pub": asPEM(e.AKPublic), "notes.txt": []byte("x")}))
	if err != nil {
		t.Fatal(err)
	}
	g.v = v
	return g
}

func digest() []byte { d := sha256.Sum256([]byte("document")); return d[:] }

// binding has a digest of SHA-384's size, of which the TPM takes the first part.
func binding() as.Binding {
	return as.Binding{ReportData: bytes.Repeat([]byte{7}, 48), InitData: digest()}
}

func (g guest) evidence(t *testing.T) json.RawMessage {
	t.Helper()
	raw, err := g.Evidence(t.Context(), binding().ReportData)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (g guest) measure(t *testing.T, pcr uint64) {
	t.Helper()
	regs, err := g.Registers()
	if err != nil {
		t.Fatal(err)
	}
	j, err := eventlog.Open(t.Context(), g.dir, regs)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Measure(t.Context(), g.MapPCR(pcr), eventlog.Entry{Domain: "cocoon.test", Operation: "Run", Content: "image"}); err != nil {
		t.Error(err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

func TestAGuestWithATrustedTPMIsAccepted(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	if err := g.BindInitData(t.Context(), digest()); err != nil {
		t.Fatal(err)
	}
	g.measure(t, 17)
	c, err := g.v.Verify(t.Context(), g.evidence(t), binding())
	if err != nil {
		t.Fatal(err)
	}
	log, _ := c.Values["uefi_event_logs"].([]any)
	want := sha256.Sum256(append(make([]byte, 32), digest()...))
	if c.Class != "cpu" || c.ReportData != strings.Repeat("07", 32) || *c.InitData != hex.EncodeToString(want[:]) || c.Values["pcr08"] != *c.InitData || len(log) != 1 {
		t.Errorf("%+v", c)
	}
}

func TestWhatATPMDoesNotProveIsRefused(t *testing.T) {
	t.Parallel()
	g, stranger := newGuest(t), newGuest(t)
	if err := g.BindInitData(t.Context(), digest()); err != nil {
		t.Fatal(err)
	}
	good := g.evidence(t)
	change := func(f func(e *tpm.Evidence)) json.RawMessage {
		var e tpm.Evidence
		if err := json.Unmarshal(good, &e); err != nil {
			t.Fatal(err)
		}
		f(&e)
		raw, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	curveDER, err := x509.MarshalPKIXPublicKey(curve.Public())
	if err != nil {
		t.Fatal(err)
	}
	log, err := eventlog.Join(nil, eventlog.Entry{Domain: "d", Operation: "o"}.Event(15, eventlog.SHA256).Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	far, err := eventlog.Join(nil, eventlog.Entry{Domain: "d", Operation: "o"}.Event(24, eventlog.SHA256).Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	pss := tpm2.Marshal(tpm2.TPMTSignature{
		SigAlg:    tpm2.TPMAlgRSAPSS,
		Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSAPSS, &tpm2.TPMSSignatureRSA{Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: []byte("x")}}),
	})
	for name, tc := range map[string]struct {
		raw  json.RawMessage
		b    as.Binding
		want string
	}{
		"no JSON":             {json.RawMessage("["), binding(), "unexpected end"},
		"nothing":             {json.RawMessage("{}"), binding(), "the TPM's key"},
		"a stranger":          {stranger.evidence(t), binding(), "not among the trusted"},
		"a stranger's quote":  {change(func(e *tpm.Evidence) { e.Quote = other(t, stranger).Quote }), binding(), "signature"},
		"a curve's key":       {change(func(e *tpm.Evidence) { e.AKPublic = curveDER }), binding(), "no RSA key"},
		"a changed message":   {change(func(e *tpm.Evidence) { e.Quote.Message[30] ^= 1 }), binding(), "signature"},
		"no signature":        {change(func(e *tpm.Evidence) { e.Quote.Signature = nil }), binding(), "signature of the TPM quote"},
		"another algorithm":   {change(func(e *tpm.Evidence) { e.Quote.Signature = pss }), binding(), "want RSASSA"},
		"a changed signature": {change(func(e *tpm.Evidence) { e.Quote.Signature[100] ^= 1 }), binding(), "signature"},
		"a changed PCR":       {change(func(e *tpm.Evidence) { e.Quote.PCRs[11] = strings.Repeat("11", 32) }), binding(), "not those that were signed"},
		"a missing PCR":       {change(func(e *tpm.Evidence) { e.Quote.PCRs = e.Quote.PCRs[1:] }), binding(), "23 PCRs"},
		"a PCR too much":      {change(func(e *tpm.Evidence) { e.Quote.PCRs = append(e.Quote.PCRs, e.Quote.PCRs[0]) }), binding(), "25 PCRs"},
		"an odd PCR":          {change(func(e *tpm.Evidence) { e.Quote.PCRs[3] = "xx" }), binding(), "PCR 3"},
		"a short PCR":         {change(func(e *tpm.Evidence) { e.Quote.PCRs[3] = "00" }), binding(), "PCR 3 has 1"},
		"another session":     {good, as.Binding{ReportData: []byte("x")}, "not the digest of this session"},
		"no session":          {good, as.Binding{}, "no report data"},
		"other init data":     {good, as.Binding{ReportData: binding().ReportData, InitData: make([]byte, 32)}, "PCR 8 is"},
		"long init data":      {good, as.Binding{ReportData: binding().ReportData, InitData: make([]byte, 48)}, "SHA-256 only"},
		"a log that lies":     {change(func(e *tpm.Evidence) { e.EventLog = log }), binding(), "PCR 15 is 0000"},
		"a log of elsewhere":  {change(func(e *tpm.Evidence) { e.EventLog = far }), binding(), "register 24"},
		"rubbish as log":      {change(func(e *tpm.Evidence) { e.EventLog = []byte("x") }), binding(), "event log"},
	} {
		c, err := g.v.Verify(t.Context(), tc.raw, tc.b)
		if !errors.Is(err, as.ErrEvidence) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, %v; want %q", name, c, err, tc.want)
		}
	}
}

func other(t *testing.T, g guest) (e tpm.Evidence) {
	t.Helper()
	if err := json.Unmarshal(g.evidence(t), &e); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestAFolderWithoutGoodKeysIsAnError(t *testing.T) {
	t.Parallel()
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	smallDER, err := x509.MarshalPKIXPublicKey(small.Public())
	if err != nil {
		t.Fatal(err)
	}
	large, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	largeDER, err := x509.MarshalPKIXPublicKey(large.Public())
	if err != nil {
		t.Fatal(err)
	}
	good := map[string][]byte{"a.pub": asPEM(largeDER)}
	with := func(b []byte) map[string][]byte { m := maps.Clone(good); m["b.pub"] = b; return m }
	if _, err := verifytpm.New(keys(t, good)); err != nil {
		t.Errorf("a good folder: %v", err)
	}
	for name, tc := range map[string]struct {
		files map[string][]byte
		want  string
	}{
		"empty":         {nil, "0 TPM keys"},
		"no .pub":       {map[string][]byte{"a.pem": asPEM(largeDER)}, "0 TPM keys"},
		"no PEM":        {with([]byte("x")), "not one public key"},
		"two keys":      {with(append(asPEM(largeDER), asPEM(largeDER)...)), "not one public key"},
		"a certificate": {with(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: largeDER})), "not one public key"},
		"no key":        {with(asPEM([]byte("x"))), "b.pub"},
		"a short key":   {with(asPEM(smallDER)), "at least 2048"},
		"a large file":  {with(make([]byte, 1<<16)), "b.pub"},
	} {
		if _, err := verifytpm.New(keys(t, tc.files)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	if _, err := verifytpm.New(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a folder that is not there was taken")
	}
}

func TestRealEvidenceVerifiesAndEachChangeIsNoticed(t *testing.T) {
	t.Parallel()
	raw := sharedtest.Read(t, "evidence/tpm/tpm_evidence.json")
	var e tpm.Evidence
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatal(err)
	}
	v, err := verifytpm.New(keys(t, map[string][]byte{"real.pub": asPEM(e.AKPublic)}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), raw, as.Binding{Unbound: true}); err != nil {
		t.Fatal(err)
	}
	check := func(what string, off int) {
		changed, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(t.Context(), changed, as.Binding{Unbound: true}); !errors.Is(err, as.ErrEvidence) {
			t.Errorf("%s, byte %d: %v", what, off, err)
		}
	}
	for what, b := range map[string][]byte{"key": e.AKPublic, "message": e.Quote.Message, "signature": e.Quote.Signature} {
		for off := range b {
			b[off] ^= 1
			check(what, off)
			b[off] ^= 1
		}
	}
	for n, text := range e.Quote.PCRs {
		for off := 0; off < len(text); off += 2 {
			v, err := hex.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			v[off/2] ^= 1
			e.Quote.PCRs[n] = hex.EncodeToString(v)
			check("PCR", n)
		}
		e.Quote.PCRs[n] = text
	}
}

func FuzzEvidence(f *testing.F) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.pub"), asPEM(der), 0o600); err != nil {
		f.Fatal(err)
	}
	v, err := verifytpm.New(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"tpm_quote":{"signature":"ABQACwABAA==","message":"/1RDR4AY","pcrs":["00"]},"ak_public":"MA=="}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, err := v.Verify(t.Context(), raw, as.Binding{Unbound: true}); err == nil {
			t.Errorf("accepted: %+v", c)
		}
	})
}
