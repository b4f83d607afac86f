// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package snp verifies the evidence of AMD SEV-SNP guests.
//
// Trust: evidence is a claim of whoever sends it. What counts is the signature
// of a key that AMD's root key vouches for, and that root is part of this
// program. Certificates from the evidence, from AMD's key service or from a
// folder are used only as far as they chain to it.
package snp

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-sev-guest/verify"

	"cocoon/attest/tee/snp"
	"cocoon/trustee/as"
)

// Source finds the certificate of a processor's key that evidence lacks.
type Source interface {
	// VCEK returns it in DER.
	VCEK(ctx context.Context, k Key) ([]byte, error)
}

// Config is what a Verifier works with.
type Config struct {
	// Roots are the keys to trust; nil means AMD's.
	Roots map[snp.Product]Roots
	// Sources are asked in order. With none, evidence has to bring the
	// certificate.
	Sources []Source
	// Kept is where certificates that a source gave and that hold are kept; ""
	// keeps none.
	Kept Folder
	// Now is the time at which certificates have to be valid.
	Now func() time.Time
}

// Verifier verifies SNP evidence. It is safe for concurrent use.
type Verifier struct{ cfg Config }

var _ as.Verifier = (*Verifier)(nil)

// New returns a Verifier.
func New(cfg Config) (*Verifier, error) {
	if cfg.Roots == nil {
		roots, err := amdRoots()
		if err != nil {
			return nil, err
		}
		cfg.Roots = roots
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Verifier{cfg: cfg}, nil
}

// Verify implements as.Verifier.
func (v *Verifier) Verify(ctx context.Context, evidence json.RawMessage, b as.Binding) (*as.Claims, error) {
	var e snp.Evidence
	if err := json.Unmarshal(evidence, &e); err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	if e.Report == nil {
		return nil, fmt.Errorf("attestation_report is missing: %w", as.ErrEvidence)
	}
	if err := v.VerifyReport(ctx, e.Report, e.Certs); err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	if err := errors.Join(b.CheckReportData(e.Report.ReportData()), b.CheckInitData(e.Report.HostData())); err != nil {
		return nil, err
	}
	init := hex.EncodeToString(e.Report.HostData())
	return &as.Claims{
		Class: "cpu", ReportData: hex.EncodeToString(e.Report.ReportData()), InitData: &init, Values: ClaimsOf(e.Report),
	}, nil
}

// ClaimsOf returns the claims of a report under the names that Trustee gives
// them.
func ClaimsOf(r *snp.Report) map[string]any {
	tcb, policy, platform := r.ReportedTCB(), r.Policy(), r.PlatformInfo()
	return map[string]any{
		"policy_abi_major": int(policy.ABIMajor()), "policy_abi_minor": int(policy.ABIMinor()),
		"policy_smt_allowed": policy.SMT(), "policy_migrate_ma": policy.MigrationAgent(),
		"policy_debug_allowed": policy.Debug(), "policy_single_socket": policy.SingleSocket(),
		"reported_tcb_bootloader": int(tcb.Bootloader), "reported_tcb_tee": int(tcb.TEE),
		"reported_tcb_snp": int(tcb.SNP), "reported_tcb_microcode": int(tcb.Microcode),
		"platform_tsme_enabled": platform.TSME(), "platform_smt_enabled": platform.SMT(),
		"measurement": hex.EncodeToString(r.Measurement()), "chip_id": hex.EncodeToString(r.ChipID()),
	}
}

// minVersion is the first version of reports that names the processor, without
// which the root to trust would be the sender's choice.
const minVersion = 3

// VerifyReport checks that a processor, or the provider's key for it, has
// signed r for the highest privilege level. certs may hold the certificate of
// that key.
func (v *Verifier) VerifyReport(ctx context.Context, r *snp.Report, certs []snp.Cert) error {
	if r.Version() < minVersion {
		return fmt.Errorf("report has version %d, want at least %d: the processor's firmware is too old", r.Version(), minVersion)
	}
	product, err := r.Product()
	if err != nil {
		return err
	}
	if r.VMPL() != 0 {
		return fmt.Errorf("report is of privilege level VMPL %d, want 0", r.VMPL())
	}
	kind := snp.VCEK
	if r.SignedByVLEK() {
		kind = snp.VLEK
	}
	for _, c := range certs {
		if c.Kind == kind {
			return v.checkBy(kind, c.Data, r, product)
		}
	}
	if certs != nil {
		return fmt.Errorf("cert_chain has no %s, which has signed", kind)
	}
	if kind == snp.VLEK {
		return errors.New("the evidence lacks its VLEK, which nobody but its provider has")
	}
	return v.checkByLookup(ctx, r, product)
}

// checkBy checks the report by the certificate der.
func (v *Verifier) checkBy(kind string, der []byte, r *snp.Report, product snp.Product) error {
	vek, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("parse %s: %w", kind, err)
	}
	if err := v.checkSigner(vek, r, product); err != nil {
		return err
	}
	if err := verify.SnpReportSignature(r[:], vek); err != nil {
		return fmt.Errorf("signature of the report: %w", err)
	}
	return nil
}

// checkByLookup checks the report by what the sources have. What one has that
// does not hold, as after an update of the firmware, does not keep the next from
// being asked.
func (v *Verifier) checkByLookup(ctx context.Context, r *snp.Report, product snp.Product) error {
	k := Key{Product: product, HWID: hwid(r.ChipID(), product), TCB: r.ReportedTCB()}
	if k.masked() {
		return errors.New("the chip id is masked (MASK_CHIP_ID): the VCEK cannot be looked up")
	}
	if len(v.cfg.Sources) == 0 {
		return errors.New("the evidence lacks its VCEK and there is no source of VCEKs")
	}
	var errs []error
	for _, s := range v.cfg.Sources {
		der, err := s.VCEK(ctx, k)
		if err == nil {
			err = v.checkBy(snp.VCEK, der, r, product)
		}
		if err == nil {
			return v.keep(s, k, der)
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("find the VCEK: %w", errors.Join(errs...))
}

// keep keeps a certificate that holds, unless it comes from there.
func (v *Verifier) keep(from Source, k Key, der []byte) error {
	if v.cfg.Kept == "" || from == Source(v.cfg.Kept) {
		return nil
	}
	if err := v.cfg.Kept.keep(k, der); err != nil {
		return fmt.Errorf("keep a VCEK: %w", err)
	}
	return nil
}
