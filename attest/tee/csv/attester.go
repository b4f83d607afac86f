// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package csv

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"cocoon/internal/octets"
	"cocoon/internal/sm3"
)

// Errors that callers branch on.
var (
	// ErrUnsupported is returned where there is no such device.
	ErrUnsupported = errors.New("there is no CSV guest device")
	// ErrStale is returned for a report about another request.
	ErrStale = errors.New("the report is about another request")
)

// Device has the secure processor fill a page, which begins with the request.
type Device interface {
	Report(ctx context.Context, page *[PageSize]byte) error
}

// Attester makes the evidence of a CSV guest. It is safe for concurrent use.
type Attester struct{ device Device }

// New returns an attester on this machine's device.
func New() *Attester { return NewWith(driver{path: guestDevice}) }

// NewWith returns an attester on a device.
func NewWith(d Device) *Attester { return &Attester{device: d} }

// TEE returns "csv".
func (a *Attester) TEE() string { return "csv" }

// Evidence returns a report of the first version about reportData, of at most 64
// bytes, which are padded with zeros.
func (a *Attester) Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error) {
	if len(reportData) > DataSize {
		return nil, fmt.Errorf("CSV report data of %d bytes, at most %d", len(reportData), DataSize)
	}
	var page [PageSize]byte
	nonce := page[DataSize:][:nonceSize]
	copy(page[:DataSize], reportData)
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("make a nonce: %w", err)
	}
	request := bytes.Clone(page[:DataSize+nonceSize])
	sum := sm3.Sum(request)
	copy(page[len(request):], sum[:])
	if err := a.device.Report(ctx, &page); err != nil {
		return nil, err
	}
	r, err := ParseReport(page[:], [16]byte{}, 0)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(r.ReportData(), request[:DataSize]) || !bytes.Equal(r.Nonce(), request[DataSize:]) {
		return nil, ErrStale
	}
	return r.evidence()
}

// evidence checks what stands beside the report and puts all together. The
// firmware has masked certificate and serial number, and peers expect them
// without the mask also in the page.
func (r *Report) evidence() (json.RawMessage, error) {
	beside := r.raw[r.certOff():]
	const serialOff, reservedOff, macOff = CertSize, CertSize + serialSize, CertSize + serialSize + digestSize
	mac := hmac.New(sm3.New, r.Nonce())
	mac.Write(beside[:macOff]) //nolint:errcheck // a hash does not fail
	if !hmac.Equal(mac.Sum(nil), beside[macOff:][:digestSize]) {
		return nil, fmt.Errorf("%w: the certificate beside it was changed", ErrReport)
	}
	copy(beside, r.field(r.certOff(), reservedOff))
	clear(beside[reservedOff:macOff])
	pek, err := ParseCert(beside[:CertSize])
	if err != nil {
		return nil, err
	}
	var e Evidence
	e.Report.Data, e.Chain.PEK, e.Serial = r.raw, *pek, octets.Octets(beside[serialOff:reservedOff])
	return json.Marshal(e)
}
