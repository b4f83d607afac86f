// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"cocoon/attest/tee/azvtpm"
	"cocoon/attest/tee/snp"
	"cocoon/attest/tee/tdx"
	"cocoon/attest/tee/tpm"
	verifyaz "cocoon/trustee/verify/azvtpm"
)

// MaxEvidence bounds evidence, in bytes.
const MaxEvidence = 8 << 20

// ErrEvidence is wrapped by errors about what is no evidence that can be explained.
var ErrEvidence = errors.New("no evidence of SEV-SNP, TDX or a TPM")

// Reported is what the hardware said.
type Reported struct {
	// TEE is snp, tdx or vtpm, as in a manifest.
	TEE string
	// Registers are hexadecimal, under the names of reference values; those of a
	// TPM are pcr00 to pcr23.
	Registers map[string]string
	// Notes are settings that a reader has to know of.
	Notes []string
	// Log is the firmware's, if the evidence brings one.
	Log []byte
}

// Decode reads a report of SEV-SNP or a quote of TDX as the hardware makes it, or
// evidence in JSON as a guest hands it in: of snp, tdx, az-snp-vtpm, az-tdx-vtpm
// and tpm, alone or as the primary evidence of several devices. Nothing of it is
// verified.
func Decode(raw []byte) (*Reported, error) {
	if len(raw) > MaxEvidence {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrEvidence, len(raw), MaxEvidence)
	}
	if trimmed := bytes.TrimSpace(raw); len(trimmed) > 0 && trimmed[0] == '{' {
		return decodeJSON(trimmed)
	}
	if len(raw) == snp.ReportSize {
		r, err := snp.ParseReport(raw)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrEvidence, err)
		}
		return ofSNP(r), nil
	}
	q, err := tdx.ParseQuote(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: neither JSON, nor a report of SNP, nor a quote of TDX: %w", ErrEvidence, err)
	}
	return ofTDX(q, nil), nil
}

// decodeJSON tells the kind by the members: some evidence has those of others and
// more.
func decodeJSON(raw []byte) (*Reported, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvidence, err)
	}
	if inner, ok := members["primary_evidence"]; ok {
		raw, members = inner, nil
		if err := json.Unmarshal(raw, &members); err != nil {
			return nil, fmt.Errorf("%w: primary evidence: %w", ErrEvidence, err)
		}
	}
	for _, kind := range []struct {
		member string
		decode func([]byte) (*Reported, error)
	}{
		{"ak_public", decodeTPM}, {"td_quote", decodeAzureTDX}, {"vcek", decodeAzureSNP}, {"attestation_report", decodeSNP}, {"quote", decodeTDX},
	} {
		if _, ok := members[kind.member]; ok {
			r, err := kind.decode(raw)
			if err != nil {
				return nil, fmt.Errorf("%w: evidence with %s: %w", ErrEvidence, kind.member, err)
			}
			return r, nil
		}
	}
	return nil, fmt.Errorf("%w: its members are those of no kind that is known here", ErrEvidence)
}

func decodeSNP(raw []byte) (*Reported, error) {
	var e snp.Evidence
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, err
	}
	if e.Report == nil {
		return nil, errors.New("there is no report")
	}
	return ofSNP(e.Report), nil
}

func decodeTDX(raw []byte) (*Reported, error) {
	var e tdx.Evidence
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, err
	}
	q, err := tdx.ParseQuote(e.Quote)
	if err != nil {
		return nil, err
	}
	return ofTDX(q, e.EventLog), nil
}

func ofSNP(r *snp.Report) *Reported {
	out := &Reported{TEE: "snp", Registers: map[string]string{
		"snp_launch_measurement": hex.EncodeToString(r.Measurement()), "snp_host_data": hex.EncodeToString(r.HostData()),
	}}
	if r.Policy().Debug() {
		out.Notes = append(out.Notes, "the launch policy allows the host to debug the guest: it sees its memory")
	}
	if r.Policy().MigrationAgent() {
		out.Notes = append(out.Notes, "the launch policy allows a migration agent")
	}
	if r.VMPL() != 0 {
		out.Notes = append(out.Notes, fmt.Sprintf("the report is of privilege level VMPL %d: something runs below the guest", r.VMPL()))
	}
	return out
}

func ofTDX(q *tdx.Quote, log []byte) *Reported {
	out := &Reported{TEE: "tdx", Registers: map[string]string{}, Log: log}
	for _, name := range []string{"mr_td", "rtmr_0", "rtmr_1", "rtmr_2", "rtmr_3", "mr_config_id"} {
		out.Registers[name] = hex.EncodeToString(q.Field(name))
	}
	if q.Attributes().Debug() {
		out.Notes = append(out.Notes, "the trust domain can be debugged by the host: it sees its memory")
	}
	return out
}

// decodeTPM takes the values beside the quote, which has only their digest.
func decodeTPM(raw []byte) (*Reported, error) {
	var e tpm.Evidence
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, err
	}
	var values [][]byte
	for i, text := range e.Quote.PCRs {
		v, err := hex.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("PCR %d: %w", i, err)
		}
		values = append(values, v)
	}
	return ofTPM(values)
}

func decodeAzureSNP(raw []byte) (*Reported, error) { return decodeAzure(raw, azvtpm.SNP) }

func decodeAzureTDX(raw []byte) (*Reported, error) { return decodeAzure(raw, azvtpm.TDX) }

func decodeAzure(raw []byte, kind uint32) (*Reported, error) {
	e, err := verifyaz.Parse(raw, kind)
	if err != nil {
		return nil, err
	}
	var values [][]byte
	for _, v := range e.Quote.PCRs {
		values = append(values, v)
	}
	r, err := ofTPM(values)
	if err != nil {
		return nil, err
	}
	r.Notes = append(r.Notes, "the hardware's own measurement is of the provider's paravisor, not of the image: it is not looked at here")
	return r, nil
}

// maxPCR is the highest register.
const maxPCR = 23

func ofTPM(values [][]byte) (*Reported, error) {
	if len(values) == 0 || len(values) > maxPCR+1 {
		return nil, fmt.Errorf("%d registers, want 1 to %d", len(values), maxPCR+1)
	}
	r := &Reported{TEE: "vtpm", Registers: map[string]string{}}
	for i, v := range values {
		r.Registers[fmt.Sprintf("pcr%02d", i)] = hex.EncodeToString(v)
	}
	return r, nil
}
