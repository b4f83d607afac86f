// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package azvtpm

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"cocoon/attest/eventlog"
	"cocoon/attest/tee/snp"
	"cocoon/attest/tee/tdx"
	"cocoon/attest/tee/tpm"
)

// What the paravisor keeps in the TPM.
const (
	reportIndex = 0x01400001 // its report, made anew for each user data
	userIndex   = 0x01400002 // user data, written by the guest
	akHandle    = 0x81000003

	version       = 2
	maxReportData = 64
	tdReportSize  = 1024
	tdDataOff     = 128 // report data in a TDREPORT
	snpDataOff    = 0x50

	// reportWait is how long the paravisor may take for a new report, and
	// reportLook how often it is looked for. It takes up to three seconds.
	reportWait = 15 * time.Second
	reportLook = 250 * time.Millisecond
)

// Errors that callers branch on.
var (
	// ErrStale is returned if the paravisor makes no report about this request.
	ErrStale = errors.New("the paravisor's report is about another request")
	// ErrKey is returned if the TPM's key is not the one in the report.
	ErrKey = errors.New("the TPM has another key than the paravisor's report says")
)

// Chip is the TPM that the paravisor offers. tpm.TPM is one.
type Chip interface {
	ReadNV(ctx context.Context, index uint32) ([]byte, error)
	WriteNV(ctx context.Context, index uint32, data []byte) error
	Quote(ctx context.Context, ak uint32, nonce []byte) (*tpm.Quote, error)
}

// Signer has the hardware's report signed, or the certificate of the key that
// has signed it. Metadata is one.
type Signer interface {
	VCEK(ctx context.Context) ([]byte, error)
	TDQuote(ctx context.Context, report []byte) ([]byte, error)
}

// Attester makes the evidence of a confidential VM on Azure. It is safe for
// concurrent use.
type Attester struct {
	kind     uint32
	chip     Chip
	signer   Signer
	agentLog string
	// turn holds one token; its owner may use the index of the user data.
	turn chan struct{}
}

// NewAttester returns an attester for hardware of a kind. agentLog is the file
// with the entries of the attestation agent.
func NewAttester(kind uint32, chip Chip, signer Signer, agentLog string) *Attester {
	a := &Attester{kind: kind, chip: chip, signer: signer, agentLog: agentLog, turn: make(chan struct{}, 1)}
	a.turn <- struct{}{}
	return a
}

// HardwareType returns the kind of hardware that the paravisor's report in a
// TPM is about, 0 if what is there is no such report, and fs.ErrNotExist if
// there is nothing.
func HardwareType(ctx context.Context, chip Chip) (uint32, error) {
	b, err := chip.ReadNV(ctx, reportIndex)
	if err != nil {
		return 0, err
	}
	if len(b) < varDataOff || !bytes.Equal(b[:4], []byte("HCLA")) {
		return 0, nil
	}
	return binary.LittleEndian.Uint32(b[runtimeOff+8:]), nil
}

// TEE returns "az-snp-vtpm" or "az-tdx-vtpm".
func (a *Attester) TEE() string {
	if a.kind == TDX {
		return "az-tdx-vtpm"
	}
	return "az-snp-vtpm"
}

// Evidence returns the paravisor's report and the TPM's quote, both about
// reportData, which has 1 to 64 bytes and is not padded.
func (a *Attester) Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error) {
	if len(reportData) == 0 || len(reportData) > maxReportData {
		return nil, fmt.Errorf("report data of %d bytes, want 1 to %d", len(reportData), maxReportData)
	}
	log, err := eventlog.OfAgent(a.agentLog)
	if err != nil {
		return nil, err
	}
	raw, h, err := a.report(ctx, reportData)
	if err != nil {
		return nil, err
	}
	e := Evidence{Version: version, HCL: raw, EventLog: log}
	if err := a.sign(ctx, h, &e); err != nil {
		return nil, err
	}
	q, err := a.chip.Quote(ctx, akHandle, reportData)
	if err != nil {
		return nil, err
	}
	if !sameKey(q.Key, h.AK) {
		return nil, ErrKey
	}
	e.Quote = Quote{Signature: q.Signature, Message: q.Message}
	for _, v := range q.PCRs {
		e.Quote.PCRs = append(e.Quote.PCRs, v)
	}
	return json.Marshal(e)
}

func sameKey(a, b *rsa.PublicKey) bool { return a != nil && a.Equal(b) }

// report has the paravisor make a report about data.
func (a *Attester) report(ctx context.Context, data []byte) ([]byte, *HCL, error) {
	select {
	case <-a.turn:
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("wait for the paravisor's report: %w", context.Cause(ctx))
	}
	defer func() { a.turn <- struct{}{} }()
	if err := a.chip.WriteNV(ctx, userIndex, data); err != nil {
		return nil, nil, err
	}
	end := time.Now().Add(reportWait)
	for {
		raw, err := a.chip.ReadNV(ctx, reportIndex)
		if err != nil {
			return nil, nil, err
		}
		h, err := ParseHCL(raw)
		if err != nil {
			return nil, nil, err
		}
		if h.Kind != a.kind {
			return nil, nil, fmt.Errorf("%w: hardware of type %d, want %d", ErrHCL, h.Kind, a.kind)
		}
		err = h.about(data)
		if err == nil {
			return raw, h, nil
		}
		if time.Now().After(end) {
			return nil, nil, err
		}
		select {
		case <-ctx.Done():
			return nil, nil, errors.Join(err, context.Cause(ctx))
		case <-time.After(reportLook):
		}
	}
}

// about makes sure that the report is about data, and the hardware's about the
// report: the paravisor changes one after the other.
func (h *HCL) about(data []byte) error {
	if len(h.UserData) == 0 {
		return fmt.Errorf("%w: it holds no user data, as those of old hosts", ErrStale)
	}
	want := make([]byte, max(len(h.UserData), len(data)))
	copy(want, data)
	if !bytes.Equal(h.UserData, want) {
		return ErrStale
	}
	off := snpDataOff
	if h.Kind == TDX {
		off = tdDataOff
	}
	sum := sha256.Sum256(h.VarData)
	if !bytes.Equal(h.Hardware[off:][:sha256.Size], sum[:]) {
		return fmt.Errorf("%w: the hardware has not yet reported on it", ErrStale)
	}
	return nil
}

// sign adds what makes the hardware's report one that a verifier can check.
func (a *Attester) sign(ctx context.Context, h *HCL, e *Evidence) (err error) {
	if a.kind == SNP {
		if _, err := snp.ParseReport(h.Hardware); err != nil {
			return err
		}
		e.VCEK, err = a.signer.VCEK(ctx)
		return err
	}
	report := h.Hardware[:tdReportSize]
	if e.TDQuote, err = a.signer.TDQuote(ctx, report); err != nil {
		return err
	}
	q, err := tdx.ParseQuote(e.TDQuote)
	if err != nil {
		return err
	}
	if !bytes.Equal(q.ReportData(), report[tdDataOff:][:tdx.DataSize]) {
		return fmt.Errorf("%w about this report: its report data is another", tdx.ErrQuote)
	}
	return nil
}

// Guest is the Attester of a machine whose TPM takes init data, in PCR 8, and
// runtime measurements.
type Guest struct {
	*Attester
	*tpm.TPM
}

// New returns the attester for hardware of a kind on this machine.
func New(kind uint32, chip *tpm.TPM, agentLog string) Guest {
	metadata := NewMetadata(MetadataURL, &http.Transport{DisableKeepAlives: true})
	return Guest{NewAttester(kind, chip, metadata, agentLog), chip}
}

// Registers returns the registers for an event log.
func (g Guest) Registers() (eventlog.Registers, error) { return tpm.Registers{TPM: g.TPM}, nil }

// MapPCR returns the register for a PCR's number.
func (Guest) MapPCR(pcr uint64) uint32 { return tpm.MapPCR(pcr) }
