// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package tdx makes the evidence of Intel TDX guests and knows the forms of
// TDREPORT and quote as far as both sides need them.
//
// The structures are those of Intel's "TDX Module ABI" and "TDX DCAP Quote
// Library API", the JSON that of the attestation agent of Confidential
// Containers.
//
// Trust: a quote is made by a service of the host from a report of the
// processor, and signed. Nothing of it holds before a verifier accepted it.
package tdx

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// DataSize is the size of report data, in bytes.
const DataSize = 64

// ErrQuote is returned for what is no TDX quote.
var ErrQuote = errors.New("no TDX quote")

const (
	headerSize = 48
	body10     = 584 // of TDX 1.0
	body15     = 648 // of TDX 1.5, with two fields more
	maxQuote   = 64 << 10

	kind10, kind15 = 2, 3 // in quotes of version 5
)

// Quote is the part of a quote that says something about the guest.
type Quote struct {
	Version uint16
	Kind    uint16 // of the body, in version 5
	Header  []byte // 48 bytes
	Body    []byte // 584 or 648 bytes
	// Signed is what the signature covers, and Signature what follows.
	Signed, Signature []byte
}

// ParseQuote reads a quote of version 4 or 5.
func ParseQuote(b []byte) (*Quote, error) {
	if len(b) < headerSize+6 || len(b) > maxQuote {
		return nil, fmt.Errorf("%w: %d bytes", ErrQuote, len(b))
	}
	q := &Quote{Version: binary.LittleEndian.Uint16(b), Header: b[:headerSize]}
	if tee := binary.LittleEndian.Uint32(b[4:]); tee != 0x81 {
		return nil, fmt.Errorf("%w: its TEE type is %#x", ErrQuote, tee)
	}
	start, size := headerSize, body10
	switch q.Version {
	case 4:
	case 5:
		q.Kind = binary.LittleEndian.Uint16(b[headerSize:])
		declared := binary.LittleEndian.Uint32(b[headerSize+2:])
		start += 6
		if q.Kind == kind15 {
			size = body15
		}
		if q.Kind != kind10 && q.Kind != kind15 || declared != uint32(size) {
			return nil, fmt.Errorf("%w: a body of type %d with %d bytes", ErrQuote, q.Kind, declared)
		}
	default:
		return nil, fmt.Errorf("%w: version %d, want 4 or 5", ErrQuote, q.Version)
	}
	end := start + size
	if len(b) < end+4 {
		return nil, fmt.Errorf("%w: %d bytes are too few for its body", ErrQuote, len(b))
	}
	q.Body, q.Signed = b[start:end], b[:end]
	n := binary.LittleEndian.Uint32(b[end:])
	if int64(n) > int64(len(b)-end-4) {
		return nil, fmt.Errorf("%w: a signature of %d bytes is cut short", ErrQuote, n)
	}
	q.Signature = b[end+4:][:n]
	return q, nil
}

// BodyField is a field of a quote's body.
type BodyField struct {
	Name      string
	off, size int
}

// Fields lists the body's fields in order, under the names that Trustee gives
// them. A body of TDX 1.5 has the last two as well.
func (q *Quote) Fields() []BodyField {
	list := []BodyField{
		{"tcb_svn", 0, 16}, {"mr_seam", 16, 48}, {"mrsigner_seam", 64, 48}, {"seam_attributes", 112, 8}, {"td_attributes", 120, 8}, {"xfam", 128, 8},
		{"mr_td", 136, 48}, {"mr_config_id", 184, 48}, {"mr_owner", 232, 48}, {"mr_owner_config", 280, 48},
		{"rtmr_0", 328, 48}, {"rtmr_1", 376, 48}, {"rtmr_2", 424, 48}, {"rtmr_3", 472, 48}, {"report_data", 520, DataSize},
	}
	if len(q.Body) == body15 {
		list = append(list, BodyField{"tee_tcb_svn2", 584, 16}, BodyField{"mr_servicetd", 600, 48})
	}
	return list
}

// Field returns a field of the body, nil if there is none of that name.
func (q *Quote) Field(name string) []byte {
	for _, f := range q.Fields() {
		if f.Name == name {
			return q.Body[f.off:][:f.size]
		}
	}
	return nil
}

// ReportData is what the guest asked to have signed, 64 bytes.
func (q *Quote) ReportData() []byte { return q.Field("report_data") }

// ConfigID is MRCONFIGID, the host's field for initdata, 48 bytes.
func (q *Quote) ConfigID() []byte { return q.Field("mr_config_id") }

// Attributes are the TD attributes.
func (q *Quote) Attributes() Attributes {
	return Attributes(binary.LittleEndian.Uint64(q.Field("td_attributes")))
}

// Attributes are those of a trust domain.
type Attributes uint64

// Debug lets the host look into the guest.
func (a Attributes) Debug() bool { return a&1 != 0 }

// Named returns the attributes that Trustee names.
func (a Attributes) Named() map[string]bool {
	return map[string]bool{
		"debug": a.Debug(), "septve_disable": a>>28&1 == 1, "protection_keys": a>>30&1 == 1, "key_locker": a>>31&1 == 1, "perfmon": a>>63&1 == 1,
	}
}

// ReportSize is the size of a TDREPORT, in bytes.
const ReportSize = 1024

// Report is a TDREPORT: the processor's own word to other software on the
// machine, without a signature.
type Report [ReportSize]byte

// ReportData is what the guest asked for, 64 bytes.
func (r *Report) ReportData() []byte { return r[128:][:DataSize] }

// ConfigID is MRCONFIGID, 48 bytes.
func (r *Report) ConfigID() []byte { return r[576:][:48] }

// RTMR returns one of the four runtime registers, 48 bytes.
func (r *Report) RTMR(i int) []byte { return r[720+48*i:][:48] }
