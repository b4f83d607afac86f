// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"cocoon/attest/tee/tsm"
)

// Attester makes the evidence of an SNP guest. It is safe for concurrent use.
type Attester struct {
	devices []Device
}

// New returns an attester on the devices of this machine: the guest driver's,
// and configfs where that is absent.
func New() *Attester {
	return NewWith(newDriver(), configfs{tsm.Reporter{Dir: tsm.Dir}})
}

// NewWith returns an attester that asks the devices in order until one is
// supported.
func NewWith(devices ...Device) *Attester { return &Attester{devices: devices} }

// TEE returns "snp".
func (a *Attester) TEE() string { return "snp" }

// Evidence is what the guest hands in.
type Evidence struct {
	Report *Report `json:"attestation_report"`
	// Certs is null without the certificate of the key that signed: a verifier
	// then asks AMD's key service, which it does not for an empty list.
	Certs []Cert `json:"cert_chain"`
}

// Evidence returns the report about reportData, of at most 64 bytes, which are
// padded with zeros.
func (a *Attester) Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error) {
	report, table, err := a.report(ctx, reportData)
	if err != nil {
		return nil, err
	}
	certs, err := parseCertTable(table)
	if err != nil {
		return nil, err
	}
	return json.Marshal(Evidence{Report: report, Certs: certs})
}

// InitDataRegister returns HOST_DATA.
func (a *Attester) InitDataRegister(ctx context.Context) ([]byte, error) {
	r, _, err := a.report(ctx, nil)
	if err != nil {
		return nil, err
	}
	return r.HostData(), nil
}

// report asks for a report and makes sure that it is about data.
func (a *Attester) report(ctx context.Context, reportData []byte) (*Report, []byte, error) {
	if len(reportData) > DataSize {
		return nil, nil, fmt.Errorf("SNP report data of %d bytes, at most %d", len(reportData), DataSize)
	}
	var data [DataSize]byte
	copy(data[:], reportData)
	raw, table, err := a.ask(ctx, data)
	if err != nil {
		return nil, nil, err
	}
	r, err := ParseReport(raw)
	if err != nil {
		return nil, nil, err
	}
	if !bytes.Equal(r.ReportData(), data[:]) {
		return nil, nil, fmt.Errorf("%w about this request: its report data is another", ErrReport)
	}
	return r, table, nil
}

func (a *Attester) ask(ctx context.Context, data [DataSize]byte) (report, certs []byte, err error) {
	var missing []error
	for _, d := range a.devices {
		report, certs, err = d.Report(ctx, data)
		if !errors.Is(err, ErrUnsupported) {
			return report, certs, err
		}
		missing = append(missing, err)
	}
	return nil, nil, errors.Join(missing...)
}
