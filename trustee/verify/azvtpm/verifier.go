// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package azvtpm verifies the evidence of confidential VMs on Azure.
//
// Trust: the hardware's report is verified as any other of its kind. It holds
// the digest of the paravisor's data, those hold the TPM's key, and that key
// has signed the registers and the session. Each step is checked here.
package azvtpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"cocoon/attest/tee/azvtpm"
	"cocoon/attest/tee/snp"
	"cocoon/attest/tee/tdx"
	"cocoon/trustee/as"
	verifysnp "cocoon/trustee/verify/snp"
	verifytdx "cocoon/trustee/verify/tdx"
)

const (
	pcrCount   = 24
	initPCR    = 8
	tdDataOff  = 128 // report data in a TDREPORT
	maxMessage = 1024
)

// SNPReports verifies reports of SNP.
type SNPReports interface {
	VerifyReport(ctx context.Context, r *snp.Report, certs []snp.Cert) error
}

// TDXQuotes verifies quotes of TDX.
type TDXQuotes interface {
	Standing(ctx context.Context, quote []byte) (*tdx.Quote, map[string]any, error)
}

// SNP verifies evidence of type az-snp-vtpm.
type SNP struct{ Reports SNPReports }

// TDX verifies evidence of type az-tdx-vtpm.
type TDX struct{ Quotes TDXQuotes }

var (
	_ as.Verifier = SNP{}
	_ as.Verifier = TDX{}
	_ SNPReports  = (*verifysnp.Verifier)(nil)
	_ TDXQuotes   = (*verifytdx.Verifier)(nil)
)

// opened is evidence whose TPM quote holds.
type opened struct {
	azvtpm.Evidence
	hcl   *azvtpm.HCL
	nonce []byte // that the quote is about
}

// Verify implements as.Verifier.
func (v SNP) Verify(ctx context.Context, evidence json.RawMessage, b as.Binding) (*as.Claims, error) {
	o, err := open(evidence, azvtpm.SNP, b)
	if err != nil {
		return nil, err
	}
	r, err := snp.ParseReport(o.hcl.Hardware)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	if err := v.Reports.VerifyReport(ctx, r, []snp.Cert{{Kind: snp.VCEK, Data: snp.Octets(o.VCEK)}}); err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	if err := o.bound(r.ReportData()); err != nil {
		return nil, err
	}
	values := map[string]any{}
	for name, value := range verifysnp.ClaimsOf(r) {
		values[name] = fmt.Sprint(value) // this verifier's claims are texts
	}
	delete(values, "chip_id")
	values["measurement"] = base64.StdEncoding.EncodeToString(r.Measurement())
	return o.claims(values), nil
}

// Verify implements as.Verifier.
func (v TDX) Verify(ctx context.Context, evidence json.RawMessage, b as.Binding) (*as.Claims, error) {
	o, err := open(evidence, azvtpm.TDX, b)
	if err != nil {
		return nil, err
	}
	q, standing, err := v.Quotes.Standing(ctx, o.TDQuote)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	if data := o.hcl.Hardware[tdDataOff:][:tdx.DataSize]; !bytes.Equal(q.ReportData(), data) {
		return nil, fmt.Errorf("the quote is about another report than the paravisor's: %w", as.ErrEvidence)
	}
	if err := o.bound(q.ReportData()); err != nil {
		return nil, err
	}
	values := verifytdx.ClaimsOf(q)
	for name, value := range standing {
		values[name] = value
	}
	return o.claims(values), nil
}

// open checks the TPM's quote and what it is about.
func open(raw json.RawMessage, kind uint32, b as.Binding) (*opened, error) {
	o := &opened{}
	if err := json.Unmarshal(raw, &o.Evidence); err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	if o.Version != 1 && o.Version != 2 {
		return nil, fmt.Errorf("evidence of version %d, want 1 or 2: %w", o.Version, as.ErrEvidence)
	}
	var err error
	if o.hcl, err = azvtpm.ParseHCL(o.HCL); err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	if o.hcl.Kind != kind {
		return nil, fmt.Errorf("the report is of hardware type %d, want %d: %w", o.hcl.Kind, kind, as.ErrEvidence)
	}
	nonce, err := checkQuote(o.Quote, o.hcl.AK)
	if err != nil {
		return nil, fmt.Errorf("TPM quote: %w: %w", as.ErrEvidence, err)
	}
	o.nonce = nonce
	return o, o.checkSession(nonce, b)
}

// checkSession compares what the quote and the paravisor's data are about.
func (o *opened) checkSession(nonce []byte, b as.Binding) error {
	if !b.Unbound && !bytes.Equal(nonce, b.ReportData) {
		return fmt.Errorf("the TPM quote is not about the digest of this session's runtime data: %w", as.ErrEvidence)
	}
	if o.Version >= 2 && (len(nonce) == 0 || !bytes.HasPrefix(o.hcl.UserData, nonce)) {
		return fmt.Errorf("the hardware report is about another session than the TPM quote: %w", as.ErrEvidence)
	}
	if b.InitData == nil {
		return nil
	}
	if len(b.InitData) != sha256.Size {
		return fmt.Errorf("init data has a digest of %d bytes; a TPM takes one of SHA-256 only: %w", len(b.InitData), as.ErrEvidence)
	}
	want := sha256.Sum256(append(make([]byte, sha256.Size), b.InitData...))
	if !bytes.Equal(o.Quote.PCRs[initPCR], want[:]) {
		return fmt.Errorf("PCR 8 is %x, the init data sent gives %x: %w", []byte(o.Quote.PCRs[initPCR]), want, as.ErrEvidence)
	}
	return nil
}

// checkQuote checks signature, selection and values, and returns the nonce.
func checkQuote(q azvtpm.Quote, ak *rsa.PublicKey) ([]byte, error) {
	sum := sha256.Sum256(q.Message)
	if err := rsa.VerifyPKCS1v15(ak, crypto.SHA256, sum[:], q.Signature); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	if len(q.Message) > maxMessage {
		return nil, fmt.Errorf("message of %d bytes", len(q.Message))
	}
	a, err := tpm2.Unmarshal[tpm2.TPMSAttest](q.Message)
	if err != nil {
		return nil, err
	}
	if a.Magic != tpm2.TPMGeneratedValue || a.Type != tpm2.TPMSTAttestQuote {
		return nil, errors.New("what is signed is no quote")
	}
	info, err := a.Attested.Quote()
	if err != nil {
		return nil, err
	}
	sel := info.PCRSelect.PCRSelections
	if len(sel) != 1 || sel[0].Hash != tpm2.TPMAlgSHA256 || !bytes.Equal(sel[0].PCRSelect, []byte{0xff, 0xff, 0xff}) {
		return nil, errors.New("it is not about all PCRs of the SHA-256 bank")
	}
	if len(q.PCRs) != pcrCount {
		return nil, fmt.Errorf("%d PCRs, want %d", len(q.PCRs), pcrCount)
	}
	h := sha256.New()
	for i, v := range q.PCRs {
		if len(v) != sha256.Size {
			return nil, fmt.Errorf("PCR %d has %d bytes", i, len(v))
		}
		h.Write(v) //nolint:errcheck // a hash does not fail
	}
	if !bytes.Equal(h.Sum(nil), info.PCRDigest.Buffer) {
		return nil, errors.New("the PCRs are not those that were signed")
	}
	return a.ExtraData.Buffer, nil
}

// bound checks that the hardware's report is about the paravisor's data.
func (o *opened) bound(reportData []byte) error {
	sum := sha256.Sum256(o.hcl.VarData)
	if !bytes.Equal(reportData[:sha256.Size], sum[:]) {
		return fmt.Errorf("the hardware report is about other data of the paravisor: %w", as.ErrEvidence)
	}
	return nil
}

func (o *opened) claims(values map[string]any) *as.Claims {
	pcrs := map[string]any{}
	for i, v := range o.Quote.PCRs {
		pcrs[fmt.Sprintf("pcr%02d", i)] = hex.EncodeToString(v)
	}
	values["tpm"] = pcrs
	init := hex.EncodeToString(o.Quote.PCRs[initPCR])
	return &as.Claims{Class: "cpu", ReportData: hex.EncodeToString(o.nonce), InitData: &init, Values: values}
}
