// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"cocoon/internal/octets"
)

// A member is a field of the report in the JSON form of the peers. Every field
// is there, since a verifier puts the signed bytes together from them.
type member struct {
	name string
	off  int
	kind kind
	// since is the version of reports that have the field; null before.
	since uint32
}

// kind is the form of a member: a positive one is a string of so many bytes.
type kind int

const (
	number8  kind = -1
	number32 kind = -4
	number64 kind = -8
	levels   kind = -100 // TCB
	firmware kind = -101 // build, minor, major
	signed   kind = -102 // signature
)

func members() []member {
	return []member{
		{"version", offVersion, number32, 0}, {"guest_svn", 0x04, number32, 0}, {"policy", offPolicy, number64, 0},
		{"family_id", 0x10, 16, 0}, {"image_id", 0x20, 16, 0}, {"vmpl", offVMPL, number32, 0}, {"sig_algo", 0x34, number32, 0},
		{"current_tcb", 0x38, levels, 0}, {"plat_info", offPlatInfo, number64, 0}, {"key_info", offKeyInfo, number32, 0},
		{"report_data", offReportData, DataSize, 0}, {"measurement", offMeasurement, 48, 0}, {"host_data", offHostData, HostDataSize, 0},
		{"id_key_digest", 0xE0, 48, 0}, {"author_key_digest", 0x110, 48, 0}, {"report_id", 0x140, 32, 0}, {"report_id_ma", 0x160, 32, 0},
		{"reported_tcb", offReportedTCB, levels, 0}, {"cpuid_fam_id", offFamily, number8, 3}, {"cpuid_mod_id", offModel, number8, 3},
		{"cpuid_step", offStep, number8, 3}, {"chip_id", offChipID, chipIDSize, 0}, {"committed_tcb", 0x1E0, levels, 0},
		{"current", 0x1E8, firmware, 0}, {"committed", 0x1EC, firmware, 0}, {"launch_tcb", 0x1F0, levels, 0},
		{"launch_mit_vector", offLaunchMitigation, number64, 5}, {"current_mit_vector", offCurMitigation, number64, 5},
		{"signature", offSignature, signed, 0},
	}
}

// Octets are bytes that JSON shows as a list of numbers.
type Octets = octets.Octets

type build struct {
	Major uint8 `json:"major"`
	Minor uint8 `json:"minor"`
	Build uint8 `json:"build"`
}

type signature struct {
	R Octets `json:"r"`
	S Octets `json:"s"`
}

// scalar is the size of a number of a signature, zero-padded and little-endian.
const scalar = 72

// MarshalJSON implements json.Marshaler.
func (r *Report) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	for i, m := range members() {
		v, err := json.Marshal(r.get(m))
		if err != nil {
			return nil, fmt.Errorf("encode %s of the report: %w", m.name, err)
		}
		sep := byte(',')
		if i == 0 {
			sep = '{'
		}
		b.WriteByte(sep)
		fmt.Fprintf(&b, "%q:", m.name)
		b.Write(v)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// get returns a field in the form in which JSON shows it.
func (r *Report) get(m member) any {
	if r.Version() < m.since {
		return nil
	}
	b := r[m.off:]
	switch m.kind {
	case number8:
		return b[0]
	case number32:
		return binary.LittleEndian.Uint32(b)
	case number64:
		return binary.LittleEndian.Uint64(b)
	case levels:
		return r.tcb(m.off)
	case firmware:
		return build{Build: b[0], Minor: b[1], Major: b[2]}
	case signed:
		return signature{R: b[:scalar], S: b[scalar : 2*scalar]}
	}
	return Octets(b[:m.kind])
}

// UnmarshalJSON implements json.Unmarshaler. Fields that a report of its version
// has must be there; unknown ones are ignored, since the signature does not
// cover them.
func (r *Report) UnmarshalJSON(raw []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return fmt.Errorf("%w: %w", ErrReport, err)
	}
	*r = Report{}
	for _, m := range members() {
		v, ok := fields[m.name]
		if !ok || bytes.Equal(v, []byte("null")) {
			if r.Version() >= m.since {
				return fmt.Errorf("%w: %s is missing", ErrReport, m.name)
			}
			continue
		}
		if err := r.set(m, v); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrReport, m.name, err)
		}
	}
	if _, err := ParseReport(r[:]); err != nil {
		return err
	}
	return r.checkLevels(fields)
}

// checkLevels refuses levels in the form of another processor than the report's:
// which form it is decides where in the report the bytes are.
func (r *Report) checkLevels(fields map[string]json.RawMessage) error {
	for _, m := range members() {
		if m.kind != levels {
			continue
		}
		var t TCB
		if err := json.Unmarshal(fields[m.name], &t); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrReport, m.name, err)
		}
		if (t.FMC != nil) != r.turin() {
			return fmt.Errorf("%w: %s is in the form of another processor", ErrReport, m.name)
		}
	}
	return nil
}

func (r *Report) set(m member, raw json.RawMessage) error {
	b := r[m.off:]
	switch m.kind {
	case number8:
		return json.Unmarshal(raw, &b[0])
	case number32:
		var v uint32
		if err := json.Unmarshal(raw, &v); err != nil {
			return err
		}
		binary.LittleEndian.PutUint32(b, v)
		return nil
	case number64:
		var v uint64
		if err := json.Unmarshal(raw, &v); err != nil {
			return err
		}
		binary.LittleEndian.PutUint64(b, v)
		return nil
	case levels:
		var t TCB
		if err := json.Unmarshal(raw, &t); err != nil {
			return err
		}
		r.setTCB(m.off, t)
		return nil
	case firmware:
		var v build
		if err := json.Unmarshal(raw, &v); err != nil {
			return err
		}
		b[0], b[1], b[2] = v.Build, v.Minor, v.Major
		return nil
	case signed:
		var s signature
		if err := json.Unmarshal(raw, &s); err != nil {
			return err
		}
		if err := fill(b[:scalar], s.R); err != nil {
			return fmt.Errorf("r: %w", err)
		}
		return fill(b[scalar:2*scalar], s.S)
	}
	var o Octets
	if err := json.Unmarshal(raw, &o); err != nil {
		return err
	}
	return fill(b[:m.kind], o)
}

func fill(to []byte, from Octets) error {
	if len(from) != len(to) {
		return fmt.Errorf("%d bytes, want %d", len(from), len(to))
	}
	copy(to, from)
	return nil
}
