// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package azvtpm verifies the evidence of confidential VMs on Azure.
//
// It follows Trustee's verifiers of these names, whose three forms of evidence
// it reads.
//
// Trust: the hardware's report is verified as any other of its kind. It holds
// the digest of the paravisor's data, those hold the TPM's key, and that key
// has signed the registers and the session. Each step is checked here.
package azvtpm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"cocoon/attest/tee/azvtpm"
	"cocoon/attest/tee/snp"
	"cocoon/attest/tee/tdx"
	"cocoon/attest/tee/tpm"
	"cocoon/trustee/as"
	verifysnp "cocoon/trustee/verify/snp"
	verifytdx "cocoon/trustee/verify/tdx"
	verifytpm "cocoon/trustee/verify/tpm"
)

const tdDataOff = 128 // report data in a TDREPORT

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
	quote *tpm.Quote
	nonce []byte // that the quote is about
	log   []any  // claims of the event log, nil if there is none
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

// Parse reads evidence of a kind of hardware, azvtpm.SNP or azvtpm.TDX, in any of
// its forms. Nothing of it is checked.
func Parse(raw json.RawMessage, kind uint32) (e azvtpm.Evidence, err error) {
	var head struct {
		Version *int `json:"version"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return e, err
	}
	if head.Version == nil {
		return parseOld(raw, kind)
	}
	if *head.Version != 1 && *head.Version != 2 {
		return e, fmt.Errorf("evidence of version %d, want 1 or 2", *head.Version)
	}
	return e, json.Unmarshal(raw, &e)
}

// open checks the TPM's quote and what it is about.
func open(raw json.RawMessage, kind uint32, b as.Binding) (*opened, error) {
	o := &opened{}
	var err error
	if o.Evidence, err = Parse(raw, kind); err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	if o.hcl, err = azvtpm.ParseHCL(o.HCL); err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	if o.hcl.Kind != kind {
		return nil, fmt.Errorf("the report is of hardware type %d, want %d: %w", o.hcl.Kind, kind, as.ErrEvidence)
	}
	o.quote = &tpm.Quote{Key: o.hcl.AK, Signature: o.Quote.Signature, Message: o.Quote.Message}
	for _, v := range o.Quote.PCRs {
		o.quote.PCRs = append(o.quote.PCRs, v)
	}
	if o.nonce, err = verifytpm.CheckQuote(o.quote); err != nil {
		return nil, fmt.Errorf("TPM quote: %w: %w", as.ErrEvidence, err)
	}
	if err := o.checkSession(b); err != nil {
		return nil, err
	}
	if len(o.EventLog) > 0 {
		if o.log, err = verifytpm.Replay(o.quote, o.EventLog); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// checkSession compares what the quote and the paravisor's data are about.
func (o *opened) checkSession(b as.Binding) error {
	if !b.Unbound && !bytes.Equal(o.nonce, b.ReportData) {
		return fmt.Errorf("the TPM quote is not about the digest of this session's runtime data: %w", as.ErrEvidence)
	}
	if o.Version >= 2 && (len(o.nonce) == 0 || !bytes.HasPrefix(o.hcl.UserData, o.nonce)) {
		return fmt.Errorf("the hardware report is about another session than the TPM quote: %w", as.ErrEvidence)
	}
	return verifytpm.CheckInitData(o.quote, b)
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
	values["tpm"] = verifytpm.Claims(o.quote)
	if o.log != nil {
		values["uefi_event_logs"] = o.log
	}
	return &as.Claims{Class: "cpu", ReportData: hex.EncodeToString(o.nonce), InitData: verifytpm.InitData(o.quote), Values: values}
}
