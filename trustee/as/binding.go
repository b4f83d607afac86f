// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package as

import (
	"crypto/subtle"
	"fmt"
)

// Binding is what evidence must cover.
type Binding struct {
	// ReportData is the digest that the evidence must contain.
	ReportData []byte
	// Unbound tells that there is no session to compare report data with, as
	// when evidence is looked at later. It then proves that such a guest
	// existed, not that it is the one that asks.
	Unbound bool
	// InitData is the digest of the init data, nil if the guest sent none: the
	// field is then reported and not compared.
	InitData []byte
}

// CheckReportData compares the field of the evidence for report data with the
// digest, which is padded with zeros or cut to its size.
func (b Binding) CheckReportData(field []byte) error {
	switch {
	case b.Unbound:
		return nil
	case len(b.ReportData) == 0:
		return fmt.Errorf("no report data to compare with: %w", ErrEvidence)
	case subtle.ConstantTimeCompare(fitted(b.ReportData, len(field)), field) != 1:
		return fmt.Errorf("report data is not the digest of this session's runtime data: %w", ErrEvidence)
	}
	return nil
}

// CheckInitData compares the field of the evidence for init data likewise.
func (b Binding) CheckInitData(field []byte) error {
	if b.InitData == nil {
		return nil
	}
	if subtle.ConstantTimeCompare(fitted(b.InitData, len(field)), field) != 1 {
		return fmt.Errorf("the TEE was launched with the init data digest %x, that of the init data sent is %x: %w", field, b.InitData, ErrEvidence)
	}
	return nil
}

func fitted(digest []byte, size int) []byte {
	b := make([]byte, size)
	copy(b, digest)
	return b
}
