// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package csv verifies the evidence of guests on Hygon's processors (CSV).
//
// It follows Trustee's verifier of that name, and leaves out its claim
// serial_number, which no signature covers.
//
// Trust: evidence is a claim of whoever sends it. What counts is the chain of
// signatures from Hygon's root key, which is part of this program, by the
// signing key, the chip's and the platform's to the report. Certificates that
// evidence brings or a service gives are used only as far as they hold in it.
package csv

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"cocoon/attest/eventlog"
	"cocoon/attest/tee/csv"
	"cocoon/trustee/as"
)

// Config is what a Verifier works with.
type Config struct {
	// Root is the key to trust; nil means Hygon's.
	Root *Root
	// Sources are asked in order for what evidence does not bring.
	Sources []Source
}

// Verifier verifies evidence of type csv. It is safe for concurrent use.
type Verifier struct {
	root    *Root
	sources []Source
}

var _ as.Verifier = (*Verifier)(nil)

// New returns a Verifier.
func New(cfg Config) (*Verifier, error) {
	v := &Verifier{root: cfg.Root, sources: cfg.Sources}
	if v.root == nil {
		var err error
		if v.root, err = hygonRoot(); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// Verify implements as.Verifier.
func (v *Verifier) Verify(ctx context.Context, evidence json.RawMessage, b as.Binding) (*as.Claims, error) {
	var e csv.Evidence
	if err := json.Unmarshal(evidence, &e); err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	r, err := csv.ParseReport(e.Report.Data, e.Report.Magic, e.Report.Flags)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	if err := v.checkChain(ctx, &e, r); err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	if err := errors.Join(b.CheckReportData(r.ReportData()), checkInitData(r, b)); err != nil {
		return nil, err
	}
	values := ClaimsOf(r)
	if len(e.EventLog) > 0 && r.RTMRs() != nil {
		if values["uefi_event_logs"], err = replay(r, e.EventLog); err != nil {
			return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
		}
	}
	c := &as.Claims{Class: "cpu", ReportData: hex.EncodeToString(r.ReportData()), Values: values}
	if host := r.HostData(); host != nil {
		c.InitData = new(hex.EncodeToString(host))
	}
	return c, nil
}

// checkInitData compares with what the host declared. Older reports have no
// place for it, so there a guest that sends a document cannot be believed.
func checkInitData(r *csv.Report, b as.Binding) error {
	switch {
	case b.InitData == nil:
		return nil
	case r.HostData() == nil:
		return fmt.Errorf("a CSV report of version %d confirms no init data: %w", r.Version, as.ErrEvidence)
	}
	return b.CheckInitData(r.HostData())
}

// checkChain follows the signatures from the root to the report.
func (v *Verifier) checkChain(ctx context.Context, e *csv.Evidence, r *csv.Report) error {
	if pair := e.Chain.HSKCEK; pair != nil {
		return v.checkBy(&pair.HSK, &pair.CEK, e, r)
	}
	serial, err := serialOf(e.Serial)
	if err != nil {
		return err
	}
	if len(v.sources) == 0 {
		return errors.New("the evidence lacks HSK and CEK, and there is no source of them")
	}
	var errs []error
	for _, s := range v.sources {
		raw, err := s.Pair(ctx, serial)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		hsk, cek, err := parsePair(raw)
		if err == nil {
			err = v.checkBy(hsk, cek, e, r)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("certificates of chip %s: %w", serial, errors.Join(errs...))
}

func (v *Verifier) checkBy(hsk *csv.CA, cek *csv.Cert, e *csv.Evidence, r *csv.Report) error {
	signing, err := v.root.signing(hsk)
	if err != nil {
		return err
	}
	chip, err := signing.next(cek, csv.UsageSigning, csv.UsageChip, "CEK")
	if err != nil {
		return err
	}
	platform, err := chip.next(&e.Chain.PEK, csv.UsageChip, csv.UsagePlatform, "PEK")
	if err != nil {
		return err
	}
	return platform.checkReport(r)
}

const maxSerial = 64

// serialOf reads a chip's name, which becomes part of a path and a URL.
func serialOf(b []byte) (string, error) {
	b = bytes.TrimRight(b, "\x00")
	if len(b) == 0 || len(b) > maxSerial {
		return "", fmt.Errorf("serial number of %d bytes, want 1 to %d", len(b), maxSerial)
	}
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return "", fmt.Errorf("serial number %.64q is not of letters and digits", b)
		}
	}
	return string(b), nil
}

// ClaimsOf returns the claims of a report under the names that Trustee gives
// them.
func ClaimsOf(r *csv.Report) map[string]any {
	le := func(v uint32) string { return hex.EncodeToString(binary.LittleEndian.AppendUint32(nil, v)) }
	claims := map[string]any{
		"version": strconv.Itoa(r.Version), "policy": r.Policy().Claims(),
		"user_pubkey_digest": hex.EncodeToString(r.OwnerKeyDigest()), "vm_id": hex.EncodeToString(r.VMID()),
		"vm_version": hex.EncodeToString(r.VMVersion()), "report_data": hex.EncodeToString(r.ReportData()),
		"mnonce": hex.EncodeToString(r.Nonce()), "measure": hex.EncodeToString(r.Measurement()),
		"sig_usage": le(r.SigUsage()), "sig_algo": le(r.SigAlgo()),
	}
	if r.Version == 1 {
		claims["anonce"] = hex.EncodeToString(r.Mask())
		return claims
	}
	claims["build"], claims["rtmr_version"] = r.Build(), r.RTMRVersion()
	for i, v := range r.RTMRs() {
		claims["rtmr"+strconv.Itoa(i)] = hex.EncodeToString(v)
	}
	return claims
}

// replay checks that the log is what the registers 1 to 4 were extended with,
// and returns its claims. Register 0 is the launch measurement.
func replay(r *csv.Report, raw []byte) ([]any, error) {
	l, err := eventlog.Parse(raw)
	if err != nil {
		return nil, err
	}
	if err := l.Only(1, 4); err != nil {
		return nil, err
	}
	sums, err := l.Replay(eventlog.SM3)
	if err != nil {
		return nil, err
	}
	for i, got := range r.RTMRs()[1:] {
		want, ok := sums[uint32(i+1)]
		if !ok {
			want = make([]byte, eventlog.SM3.Size())
		}
		if !bytes.Equal(got, want) {
			return nil, fmt.Errorf("RTMR%d is %x, its event log gives %x", i+1, got, want)
		}
	}
	return l.Claims()
}
