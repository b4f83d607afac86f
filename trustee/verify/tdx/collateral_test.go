// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tdx

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tdx-guest/pcs"

	"cocoon/attest/tee/tdx"
	"cocoon/internal/bounded"
	"cocoon/internal/sharedtest"
	"cocoon/trustee/as"
)

const fmspc = "00a06d080000"

func encoded(t *testing.T, v any) []byte {
	t.Helper()
	b, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sgxExtension is that of a platform whose components all have version 5.
func sgxExtension(t *testing.T) []byte {
	t.Helper()
	type octets struct {
		ID    asn1.ObjectIdentifier
		Value []byte
	}
	type number struct {
		ID    asn1.ObjectIdentifier
		Value int
	}
	type list struct {
		ID    asn1.ObjectIdentifier
		Value []asn1.RawValue
	}
	raw := func(v any) asn1.RawValue { return asn1.RawValue{FullBytes: encoded(t, v)} }
	var tcb []asn1.RawValue
	for i := range 16 {
		tcb = append(tcb, raw(number{append(bytes2(pcs.OidTCB), i+1), 5}))
	}
	tcb = append(tcb, raw(number{pcs.OidPCESvn, 13}), raw(octets{pcs.OidCPUSvn, bytes.Repeat([]byte{5}, 16)}))
	chip, err := hex.DecodeString(fmspc)
	if err != nil {
		t.Fatal(err)
	}
	return encoded(t, []asn1.RawValue{
		raw(octets{pcs.OidPPID, make([]byte, 16)}), raw(list{pcs.OidTCB, tcb}), raw(octets{pcs.OidPCEID, []byte{0, 0}}), raw(octets{pcs.OidFMSPC, chip}),
		raw(number{append(bytes2(pcs.OidSgxExtension), 5), 0}),
	})
}

func bytes2(o asn1.ObjectIdentifier) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{}, o...)
}

// components are sixteen of version n.
func components(n int) string {
	return "[" + strings.TrimSuffix(strings.Repeat(fmt.Sprintf(`{"svn":%d},`, n), 16), ",") + "]"
}

// saying is what collateral says; zero values are of a platform that is current.
type saying struct {
	platform, enclave string // status
	need              int    // version of the platform's components
	next              string
	fmspc             string
	signer            string // of the quoting enclave
	revoked           *big.Int
	revokedCA         *big.Int
	by                string // name of the key that signs
}

// collateral returns what Intel says, signed.
func (p intel) collateral(t *testing.T, s saying) *Collateral {
	t.Helper()
	for to, v := range map[*string]string{&s.platform: "UpToDate", &s.enclave: "UpToDate", &s.next: "2026-01-01T00:00:00Z", &s.fmspc: strings.ToUpper(fmspc), &s.signer: strings.Repeat("51", 32), &s.by: tcbSigner} {
		if *to == "" {
			*to = v
		}
	}
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: s.by}, NotBefore: p.cert.NotBefore, NotAfter: p.cert.NotAfter,
	}, p.cert, &key.PublicKey, p.ca)
	if err != nil {
		t.Fatal(err)
	}
	signed := func(name, body string) []byte {
		return fmt.Appendf(nil, `{%q:%s,"signature":%q}`, name, body, hex.EncodeToString(sign(t, key, []byte(body))))
	}
	tcb := fmt.Sprintf(`{"id":"TDX","version":3,"issueDate":"2025-01-01T00:00:00Z","nextUpdate":%q,"fmspc":%q,"pceId":"0000","tcbEvaluationDataNumber":17,
"tdxModule":{"mrsigner":%q,"attributes":"0000000000000000","attributesMask":"FFFFFFFFFFFFFFFF"},
"tcbLevels":[{"tcb":{"sgxtcbcomponents":%s,"pcesvn":13,"tdxtcbcomponents":%s},"tcbDate":"2024-03-13T00:00:00Z","tcbStatus":%q,"advisoryIDs":["INTEL-SA-1"]}]}`,
		s.next, s.fmspc, strings.Repeat("00", 48), components(s.need), components(0), s.platform)
	qe := fmt.Sprintf(`{"id":"TD_QE","version":2,"issueDate":"2025-01-01T00:00:00Z","nextUpdate":%q,"tcbEvaluationDataNumber":17,"miscselect":"00000000","miscselectMask":"FFFFFFFF",
"attributes":%q,"attributesMask":%q,"mrsigner":%q,"isvprodid":2,"tcbLevels":[{"tcb":{"isvsvn":0},"tcbDate":"2024-03-13T00:00:00Z","tcbStatus":%q}]}`,
		s.next, strings.Repeat("00", 16), strings.Repeat("FF", 16), s.signer, s.enclave)
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now().AddDate(0, -1, 0), NextUpdate: now().AddDate(0, 1, 0)}
	if s.revoked != nil {
		list.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: s.revoked, RevocationTime: now()}}
	}
	crl, err := x509.CreateRevocationList(rand.Reader, list, p.cert, p.ca)
	if err != nil {
		t.Fatal(err)
	}
	list.RevokedCertificateEntries = nil
	if s.revokedCA != nil {
		list.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: s.revokedCA, RevocationTime: now()}}
	}
	rootCRL, err := x509.CreateRevocationList(rand.Reader, list, p.cert, p.ca)
	if err != nil {
		t.Fatal(err)
	}
	return &Collateral{
		TCBInfo: signed("tcbInfo", tcb), QEIdentity: signed("enclaveIdentity", qe), CRL: crl, RootCRL: rootCRL,
		Chain: append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw})...),
	}
}

type fixed struct {
	c   *Collateral
	err error
}

func (f fixed) Collateral(_ context.Context, p Platform) (*Collateral, error) {
	if p.FMSPC != fmspc || p.CA != "platform" {
		return nil, fmt.Errorf("asked for %+v", p)
	}
	return f.c, f.err
}

func TestThePlatformsStandingIsClaimed(t *testing.T) {
	t.Parallel()
	p := newIntel(t)
	raw := evidence(t, p.quote(t, 4, nil, nil), nil)
	for name, tc := range map[string]struct {
		s               saying
		status, expired string
	}{
		"current":          {saying{}, "UpToDate", "0"},
		"old platform":     {saying{platform: "OutOfDate"}, "OutOfDate", "0"},
		"old enclave":      {saying{enclave: "OutOfDate"}, "OutOfDate", "0"},
		"both":             {saying{platform: "ConfigurationNeeded", enclave: "OutOfDate"}, "OutOfDateConfigurationNeeded", "0"},
		"hardening":        {saying{platform: "SWHardeningNeeded"}, "SWHardeningNeeded", "0"},
		"stale collateral": {saying{next: "2025-05-01T00:00:00Z"}, "UpToDate", "1"},
	} {
		v := p.verifier(t)
		v.sources = []Source{fixed{err: ErrNoCollateral}, fixed{c: p.collateral(t, tc.s)}}
		c, err := v.Verify(t.Context(), raw, binding())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c.Values["tcb_status"] != tc.status || c.Values["collateral_expiration_status"] != tc.expired || c.Values["tcb_date"] != "2024-03-13T00:00:00Z" {
			t.Errorf("%s: %v, %v, %v", name, c.Values["tcb_status"], c.Values["collateral_expiration_status"], c.Values["tcb_date"])
		}
	}
}

func TestCollateralThatDoesNotHoldIsRefused(t *testing.T) {
	t.Parallel()
	p, other := newIntel(t), newIntel(t)
	raw := evidence(t, p.quote(t, 4, nil, nil), nil)
	changed := func(f func(c *Collateral)) *Collateral { c := p.collateral(t, saying{}); f(c); return c }
	for name, tc := range map[string]struct {
		c    *Collateral
		err  error
		want string
	}{
		"none":             {nil, ErrNoCollateral, "collateral not found"},
		"another root":     {other.collateral(t, saying{}), nil, "not the root that is trusted"},
		"changed TCB info": {changed(func(c *Collateral) { c.TCBInfo = bytes.Replace(c.TCBInfo, []byte(`"svn":0`), []byte(`"svn":1`), 1) }), nil, "tcbInfo is not signed"},
		"changed identity": {changed(func(c *Collateral) {
			c.QEIdentity = bytes.Replace(c.QEIdentity, []byte(`"isvsvn":0`), []byte(`"isvsvn":1`), 1)
		}), nil, "enclaveIdentity is not signed"},
		"no signature":      {changed(func(c *Collateral) { c.TCBInfo = []byte(`{"tcbInfo":{}}`) }), nil, "signature of tcbInfo"},
		"no JSON":           {changed(func(c *Collateral) { c.TCBInfo = []byte(`x`) }), nil, "tcbInfo"},
		"a short signature": {changed(func(c *Collateral) { c.TCBInfo = []byte(`{"tcbInfo":{},"signature":"00"}`) }), nil, "64 bytes"},
		"no list":           {changed(func(c *Collateral) { c.CRL = nil }), nil, "revoked PCKs"},
		"a foreign list":    {changed(func(c *Collateral) { c.CRL = other.collateral(t, saying{}).CRL }), nil, "revoked PCKs"},
		"no root list":      {changed(func(c *Collateral) { c.RootCRL = nil }), nil, "revoked CAs"},
		"foreign root list": {changed(func(c *Collateral) { c.RootCRL = other.collateral(t, saying{}).RootCRL }), nil, "revoked CAs"},
		"a revoked CA":      {p.collateral(t, saying{revokedCA: big.NewInt(2)}), nil, `certificate of "PCK" is revoked`},
		"a revoked signer":  {p.collateral(t, saying{revokedCA: big.NewInt(3)}), nil, `certificate of "Intel SGX TCB Signing" is revoked`},
		"no chain":          {changed(func(c *Collateral) { c.Chain = nil }), nil, "0 certificates"},
		"swapped":           {changed(func(c *Collateral) { c.TCBInfo, c.QEIdentity = c.QEIdentity, c.TCBInfo }), nil, "tcbInfo"},
		"a revoked PCK":     {p.collateral(t, saying{revoked: big.NewInt(2)}), nil, "PCK of the platform is revoked"},
		"revoked firmware":  {p.collateral(t, saying{platform: "Revoked"}), nil, "firmware of the platform is revoked"},
		"another platform":  {p.collateral(t, saying{fmspc: "000000000000"}), nil, "collateral of platform"},
		"no level":          {p.collateral(t, saying{need: 6}), nil, "reaches no level"},
		"a platform's key":  {p.collateral(t, saying{by: "Intel SGX PCK Certificate"}), nil, "collateral is signed by"},
		"a foreign enclave": {p.collateral(t, saying{signer: strings.Repeat("11", 32)}), nil, "quoting enclave is not Intel's"},
	} {
		v := p.verifier(t)
		v.sources = []Source{fixed{tc.c, tc.err}}
		c, err := v.Verify(t.Context(), raw, binding())
		if !errors.Is(err, as.ErrEvidence) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, %v; want %q", name, c, err, tc.want)
		}
	}
}

// The module of a newer TDX is judged by an identity of its own.
func TestTheModuleIsJudgedByItsVersion(t *testing.T) {
	t.Parallel()
	var real struct {
		TCBInfo pcs.TcbInfo `json:"tcbInfo"`
	}
	if err := json.Unmarshal(sharedtest.Read(t, "evidence/tdx/tcbInfo.json"), &real); err != nil {
		t.Fatal(err)
	}
	o := &opened{tcb: real.TCBInfo}
	q, err := tdx.ParseQuote(sharedtest.Read(t, "evidence/tdx/tdx_quote_5.dat"))
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		svn  []byte
		want string
	}{"TDX 1.0": {[]byte{5, 0}, ""}, "current 1.5": {[]byte{4, 1}, ""}, "too old": {[]byte{0, 1}, "no level"}, "unknown": {[]byte{5, 9}, "no TDX module TDX_09"}} {
		status, err := o.moduleLevel(q, tc.svn)
		if tc.want == "" && (err != nil || status != "UpToDate") || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %q, %v", name, status, err)
		}
	}
	o.tcb.TdxModule.Mrsigner.Bytes = bytes.Repeat([]byte{1}, 48)
	if _, err := o.moduleLevel(q, []byte{5, 0}); err == nil || !strings.Contains(err.Error(), "not Intel's") {
		t.Errorf("another signer: %v", err)
	}
}

func TestCollateralComesFromAFolderOrTheService(t *testing.T) {
	t.Parallel()
	p := newIntel(t)
	want := p.collateral(t, saying{})
	dir := t.TempDir()
	pf := Platform{FMSPC: fmspc, CA: "platform"}
	if _, err := Folder(dir).Collateral(t.Context(), pf); !errors.Is(err, ErrNoCollateral) {
		t.Errorf("an empty folder: %v", err)
	}
	for i, name := range Folder(dir).names(pf) {
		if err := os.WriteFile(filepath.Join(dir, name), [][]byte{want.TCBInfo, want.QEIdentity, want.Chain, want.CRL, want.RootCRL}[i], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mux := http.NewServeMux()
	reply := func(b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("TCB-Info-Issuer-Chain", url.QueryEscape(string(want.Chain)))
			if _, err := w.Write(b); err != nil {
				t.Error(err)
			}
		}
	}
	mux.HandleFunc("/tdx/certification/v4/tcb", reply(want.TCBInfo))
	mux.HandleFunc("/tdx/certification/v4/qe/identity", reply(want.QEIdentity))
	mux.HandleFunc("/sgx/certification/v4/pckcrl", reply(want.CRL))
	mux.HandleFunc("/sgx/certification/v4/rootcacrl", reply([]byte(hex.EncodeToString(want.RootCRL))))
	mux.HandleFunc("/root.der", reply(want.RootCRL))
	server := httptest.NewTLSServer(mux)
	defer server.Close()
	for name, s := range map[string]Source{"folder": Folder(dir), "cache": PCS{URL: server.URL, Client: server.Client()}, "service": PCS{URL: server.URL, Client: server.Client(), RootCRL: server.URL + "/root.der"}} {
		c, err := s.Collateral(t.Context(), pf)
		if err != nil || !bytes.Equal(c.TCBInfo, want.TCBInfo) || !bytes.Equal(c.QEIdentity, want.QEIdentity) || !bytes.Equal(c.Chain, want.Chain) || !bytes.Equal(c.CRL, want.CRL) || !bytes.Equal(c.RootCRL, want.RootCRL) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, code := range map[string]int{"absent": 404, "broken": 500} {
		bad := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }))
		if _, err := (PCS{URL: bad.URL, Client: bad.Client()}).Collateral(t.Context(), pf); err == nil || errors.Is(err, ErrNoCollateral) != (code == 404) {
			t.Errorf("%s: %v", name, err)
		}
		bad.Close()
	}
	endless := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write(make([]byte, 2*maxAnswer)) //nolint:errcheck // the client hangs up in the middle
	}))
	defer endless.Close()
	if _, err := (PCS{URL: endless.URL, Client: endless.Client()}).Collateral(t.Context(), pf); !errors.Is(err, bounded.ErrTooLarge) {
		t.Errorf("endless: %v", err)
	}
}
