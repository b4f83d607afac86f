// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tdx

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tdx-guest/pcs"

	"cocoon/attest/eventlog"
	"cocoon/attest/tee/tdx"
	"cocoon/internal/sharedtest"
	"cocoon/trustee/as"
)

func now() time.Time { return time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC) }

// intel plays Intel and a platform.
type intel struct {
	root  [sha256.Size]byte
	chain []byte // PEM
	pck   *ecdsa.PrivateKey
	qe    *ecdsa.PrivateKey
	ca    *ecdsa.PrivateKey
	cert  *x509.Certificate // of ca

	enclave func(report []byte) // changes the quoting enclave's report before it is signed
	body    func(body []byte)   // and the quote's body
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newIntel(t *testing.T) intel {
	t.Helper()
	ca, pck := newKey(t), newKey(t)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, SubjectKeyId: []byte("root"), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: now().AddDate(-1, 0, 0), NotAfter: now().AddDate(1, 0, 0), BasicConstraintsValid: true, IsCA: true}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "PCK"}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		// Intel's have six extensions, and the library counts.
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, SubjectKeyId: []byte("pck"), AuthorityKeyId: []byte("root"),
		CRLDistributionPoints: []string{"https://crl.example"}, ExtraExtensions: []pkix.Extension{{Id: pcs.OidSgxExtension, Value: sgxExtension(t)}},
	}
	p := intel{pck: pck, qe: newKey(t), ca: ca}
	var ders [][]byte
	for _, c := range []struct {
		cert *x509.Certificate
		key  *ecdsa.PrivateKey
	}{{leaf, pck}, {root, ca}} {
		der, err := x509.CreateCertificate(rand.Reader, c.cert, root, &c.key.PublicKey, ca)
		if err != nil {
			t.Fatal(err)
		}
		ders = append(ders, der)
		p.chain = append(p.chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	made, err := x509.ParseCertificate(ders[1])
	if err != nil {
		t.Fatal(err)
	}
	p.root, p.cert = sha256.Sum256(made.RawSubjectPublicKeyInfo), made
	return p
}

func sign(t *testing.T, k *ecdsa.PrivateKey, b []byte) []byte {
	t.Helper()
	d := sha256.Sum256(b)
	x, y, err := ecdsa.Sign(rand.Reader, k, d[:])
	if err != nil {
		t.Fatal(err)
	}
	return append(x.FillBytes(make([]byte, 32)), y.FillBytes(make([]byte, 32))...)
}

func withSize(b []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// quote returns a signed quote; change, if given, works on the signature's
// parts before they are put together.
func (p intel) quote(t *testing.T, version int, rtmr3 []byte, change func(s *signature)) []byte {
	t.Helper()
	b := make([]byte, 48)
	b[0], b[4] = byte(version), 0x81
	body := make([]byte, 584)
	if version == 5 {
		body = make([]byte, 648)
		b = append(b, 3, 0)
		b = binary.LittleEndian.AppendUint32(b, 648)
	}
	copy(body[184:], "config id")
	copy(body[472:], rtmr3)
	copy(body[520:], "report data")
	if p.body != nil {
		p.body(body)
	}
	b = append(b, body...)
	pub, err := p.qe.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	s := &signature{quote: sign(t, p.qe, b), key: pub[1:], report: make([]byte, reportSize), auth: []byte("auth")}
	sum := sha256.Sum256(append(bytes.Clone(s.key), s.auth...))
	copy(s.report[reportData:], sum[:])
	copy(s.report[qeSigner:], bytes.Repeat([]byte{0x51}, 32))
	s.report[qeProduct] = tdQE
	if p.enclave != nil {
		p.enclave(s.report)
	}
	s.reportSign = sign(t, p.pck, s.report)
	if change != nil {
		change(s)
	}
	inner := append(append(bytes.Clone(s.report), s.reportSign...), byte(len(s.auth)), 0)
	inner = append(append(inner, s.auth...), certPCKChain, 0)
	inner = append(inner, withSize(p.chain)...)
	sig := append(append(bytes.Clone(s.quote), s.key...), certReport, 0)
	return append(b, withSize(append(sig, withSize(inner)...))...)
}

func (p intel) verifier(t *testing.T) *Verifier {
	t.Helper()
	signer := [sha256.Size]byte(bytes.Repeat([]byte{0x51}, sha256.Size))
	v, err := New(Config{Root: &p.root, Signer: &signer, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func evidence(t *testing.T, quote, log []byte) json.RawMessage {
	t.Helper()
	b, err := json.Marshal(tdx.Evidence{Quote: quote, EventLog: log})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func binding() as.Binding {
	return as.Binding{ReportData: []byte("report data"), InitData: []byte("config id")}
}

func TestQuotesOfBothVersionsVerifyWithTheirLog(t *testing.T) {
	t.Parallel()
	p := newIntel(t)
	entry := eventlog.Entry{Domain: "d", Operation: "o", Content: "c"}.Event(4, eventlog.SHA384)
	log, err := eventlog.Join(nil, entry.Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	rtmr := eventlog.SHA384.Sum(make([]byte, 48), entry.Sum(eventlog.SHA384))
	for _, version := range []int{4, 5} {
		c, err := p.verifier(t).Verify(t.Context(), evidence(t, p.quote(t, version, rtmr, nil), log), binding())
		if err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		events, _ := c.Values["uefi_event_logs"].([]any)
		if c.Class != "cpu" || c.Values["tcb_status"] != "Unknown" || len(events) != 1 || !strings.HasPrefix(*c.InitData, "636f6e666967206964") {
			t.Errorf("version %d: %+v", version, c)
		}
	}
}

func TestQuotesThatDoNotHoldAreRefused(t *testing.T) {
	t.Parallel()
	p, other := newIntel(t), newIntel(t)
	v := p.verifier(t)
	late := p.verifier(t)
	late.now = func() time.Time { return now().AddDate(2, 0, 0) }
	good := p.quote(t, 4, nil, nil)
	by := func(enclave, body func([]byte)) json.RawMessage {
		q := p
		q.enclave, q.body = enclave, body
		return evidence(t, q.quote(t, 4, nil, nil), nil)
	}
	flip := func(off int) []byte { b := bytes.Clone(good); b[off] ^= 1; return b }
	logged, err := eventlog.Join(nil, eventlog.Entry{Domain: "d", Operation: "o"}.Event(4, eventlog.SHA384).Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	invented := func(register uint32) []byte {
		log, err := eventlog.Join(nil, eventlog.Entry{Domain: "d", Operation: "o"}.Event(register, eventlog.SHA384).Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		return log
	}
	for name, tc := range map[string]struct {
		v    *Verifier
		raw  json.RawMessage
		b    as.Binding
		want string
	}{
		"no JSON":                 {v, json.RawMessage("["), binding(), "unexpected end"},
		"no quote":                {v, json.RawMessage("{}"), binding(), "no TDX quote"},
		"a changed body":          {v, evidence(t, flip(200), nil), binding(), "not signed by the key of its quoting enclave"},
		"a changed header":        {v, evidence(t, flip(30), nil), binding(), "not signed by the key of its quoting enclave"},
		"a changed signature":     {v, evidence(t, flip(48+584+4), nil), binding(), "not signed by the key of its quoting enclave"},
		"a changed key":           {v, evidence(t, flip(48+584+4+64), nil), binding(), "about another key"},
		"another enclave":         {v, evidence(t, p.quote(t, 4, nil, func(s *signature) { s.report[0] = 1 }), nil), binding(), "not signed by the PCK"},
		"another auth":            {v, evidence(t, p.quote(t, 4, nil, func(s *signature) { s.auth = []byte("x") }), nil), binding(), "about another key"},
		"an enclave of the host":  {v, by(func(r []byte) { r[qeSigner]++ }, nil), binding(), "not Intel's quoting enclave"},
		"another Intel enclave":   {v, by(func(r []byte) { r[qeProduct] = 1 }, nil), binding(), "not Intel's quoting enclave"},
		"an enclave to look into": {v, by(func(r []byte) { r[qeAttributes] |= qeDebug }, nil), binding(), "debugged by the host"},
		"a module of the host":    {v, by(nil, func(b []byte) { b[64] = 1 }), binding(), "mrsigner_seam"},
		"a module to look into":   {v, by(nil, func(b []byte) { b[112] = 1 }), binding(), "seam_attributes"},
		"another root":            {other.verifier(t), evidence(t, good, nil), binding(), "not the root that is trusted"},
		"expired":                 {late, evidence(t, good, nil), binding(), "expired"},
		"a cut signature":         {v, evidence(t, p.quote(t, 4, nil, func(s *signature) { s.report = s.report[:10] }), nil), binding(), "cut short"},
		"another session":         {v, evidence(t, good, nil), as.Binding{ReportData: []byte("x")}, "not the digest of this session"},
		"other init data":         {v, evidence(t, good, nil), as.Binding{ReportData: []byte("report data"), InitData: []byte("x")}, "launched with the init data digest"},
		"a log that lies":         {v, evidence(t, good, logged), binding(), "RTMR3 is 0000"},
		"an event of none":        {v, evidence(t, good, invented(0)), binding(), "register 0"},
		"an event of no RTMR":     {v, evidence(t, good, invented(5)), binding(), "register 5"},
		"rubbish as log":          {v, evidence(t, good, []byte("x")), binding(), "invalid event log"},
		"registers unlogged":      {v, evidence(t, p.quote(t, 4, []byte{1}, nil), logged), binding(), "RTMR3 is 0100"},
	} {
		c, err := tc.v.Verify(t.Context(), tc.raw, tc.b)
		if !errors.Is(err, as.ErrEvidence) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, %v; want %q", name, c, err, tc.want)
		}
	}
}

func TestRealQuotesVerifyAndEachChangeIsNoticed(t *testing.T) {
	t.Parallel()
	v, err := New(Config{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tdx_quote_4.dat", "tdx_quote_5.dat"} {
		raw := sharedtest.Read(t, "evidence/tdx/"+name)
		q, err := v.VerifyQuote(raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for off := 8; off < len(q.Signed); off += 5 {
			changed := bytes.Clone(raw)
			changed[off] ^= 1
			if _, err := v.VerifyQuote(changed); err == nil {
				t.Errorf("%s: byte %d changed: accepted", name, off)
			}
		}
	}
}

func TestClaimsOfARealQuoteAreThoseOfTrustee(t *testing.T) {
	t.Parallel()
	q, err := tdx.ParseQuote(sharedtest.Read(t, "evidence/tdx/tdx_quote_4.dat"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(ClaimsOf(q))
	if err != nil {
		t.Fatal(err)
	}
	var got, want map[string]any
	if err := errors.Join(json.Unmarshal(raw, &got), json.Unmarshal(sharedtest.Read(t, "evidence/tdx/parse_tdx_claims_expected.json"), &want)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"quote", "td_attributes"} {
		if !reflect.DeepEqual(got[name], want[name]) {
			t.Errorf("%s is\n%v, want\n%v", name, got[name], want[name])
		}
	}
}

func FuzzSignature(f *testing.F) {
	f.Add(make([]byte, 600))
	f.Add(append(append(make([]byte, 128), certReport, 0, 200, 1, 0, 0), make([]byte, 456)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSignature(b)
		if err == nil && (len(s.report) != reportSize || len(s.chain) < 2) {
			t.Errorf("%+v", s)
		}
	})
}
