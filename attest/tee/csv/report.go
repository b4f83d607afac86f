// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package csv knows the evidence of guests on Hygon's processors (CSV) and makes
// it in such a guest.
//
// The layouts are those of Hygon's firmware as the library csv-rs has them, of
// reports in the three versions that there are.
//
// Trust: on the guest's side all of it comes from the secure processor through
// the guest's own kernel; on the verifier's it is a claim until the chain from
// Hygon's key to the report holds.
package csv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Sizes, in bytes.
const (
	// PageSize is that of a report with its padding.
	PageSize = 4096
	// DataSize is that of report data.
	DataSize = 64
	// CertSize is that of a certificate of a chip's or platform's key.
	CertSize = 2084

	nonceSize  = 16
	digestSize = 32
	pointSize  = 72
	serialSize = 64
	hostSize   = 64
)

// Places in a report.
const (
	offOwner   = 0
	offVMID    = 32
	offVersion = 48
	offData    = 64
	offNonce   = 128
	offMeasure = 144
	offPolicy  = 176
	offUsage   = 180
	offAlgo    = 184
	offMask    = 188 // in the first version only; in others the firmware's build
	oldSigned  = offUsage
	offOldSig  = 192
	offOldCert = 336

	offRTMRVersion = 192
	offRTMRs       = 208
	newSigned      = 1024
	offHostData    = newSigned - hostSize
	offNewCert     = newSigned + 2*pointSize

	rtmrs = 5
)

// extended begins the reports of newer firmware.
const extended = "ATTESTATION_EXT\x00"

// Flags of extended reports.
const (
	flagExtended = 1
	flagHostData = 2
)

// ErrReport is returned for what is no report.
var ErrReport = errors.New("no CSV report")

// Report is one of the secure processor.
type Report struct {
	// Version is 1 to 3: plain, with registers, with the host's data.
	Version int
	raw     []byte
}

// ParseReport reads a page with the mark and the flags that stand beside it.
func ParseReport(page []byte, magic [16]byte, flags uint32) (*Report, error) {
	if len(page) != PageSize {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrReport, len(page), PageSize)
	}
	r := &Report{raw: bytes.Clone(page)}
	switch {
	case magic == [16]byte{}, string(magic[:]) == extended && flags == 0:
		r.Version = 1
	case string(magic[:]) == extended && flags == flagExtended:
		r.Version = 2
	case string(magic[:]) == extended && flags == flagExtended|flagHostData:
		r.Version = 3
	default:
		return nil, fmt.Errorf("%w: mark %.16q with flags %d", ErrReport, magic, flags)
	}
	return r, nil
}

// Signed returns the bytes that are signed.
func (r *Report) Signed() []byte {
	if r.Version == 1 {
		return r.raw[:oldSigned]
	}
	return r.raw[:newSigned]
}

// Signature returns the two numbers of the signature, little-endian.
func (r *Report) Signature() (x, y []byte) {
	off := offOldSig
	if r.Version > 1 {
		off = newSigned
	}
	return r.raw[off:][:pointSize], r.raw[off+pointSize:][:pointSize]
}

// mask is what the firmware has put over the fields of the first version.
func (r *Report) mask() [4]byte {
	if r.Version > 1 {
		return [4]byte{}
	}
	return [4]byte(r.raw[offMask:][:4])
}

// field returns a field without the mask.
func (r *Report) field(off, size int) []byte {
	b, mask := bytes.Clone(r.raw[off:][:size]), r.mask()
	for i := range b {
		b[i] ^= mask[i%len(mask)]
	}
	return b
}

// OwnerKeyDigest is that of the key with which the owner spoke to the firmware.
func (r *Report) OwnerKeyDigest() []byte { return r.field(offOwner, digestSize) }

// VMID is a name that the owner has given.
func (r *Report) VMID() []byte { return r.field(offVMID, nonceSize) }

// VMVersion is a version that the owner has given.
func (r *Report) VMVersion() []byte { return r.field(offVersion, nonceSize) }

// ReportData is what the guest asked to have in the report.
func (r *Report) ReportData() []byte { return r.field(offData, DataSize) }

// Nonce is the guest's for one request.
func (r *Report) Nonce() []byte { return r.field(offNonce, nonceSize) }

// Measurement is SM3 over what was loaded at launch.
func (r *Report) Measurement() []byte { return r.field(offMeasure, digestSize) }

// Policy is what the owner allows the host.
func (r *Report) Policy() Policy {
	return Policy(binary.LittleEndian.Uint32(r.field(offPolicy, 4)))
}

// SigUsage is the kind of the key that has signed.
func (r *Report) SigUsage() uint32 { return binary.LittleEndian.Uint32(r.field(offUsage, 4)) }

// SigAlgo is the algorithm of the signature.
func (r *Report) SigAlgo() uint32 { return binary.LittleEndian.Uint32(r.field(offAlgo, 4)) }

// Mask is what the firmware has masked a report of the first version with.
func (r *Report) Mask() []byte { m := r.mask(); return m[:] }

// Build is that of the firmware, 0 in the first version.
func (r *Report) Build() uint32 {
	if r.Version == 1 {
		return 0
	}
	return binary.LittleEndian.Uint32(r.raw[offMask:])
}

// RTMRVersion is that of the registers, 0 in the first version.
func (r *Report) RTMRVersion() uint16 {
	if r.Version == 1 {
		return 0
	}
	return binary.LittleEndian.Uint16(r.raw[offRTMRVersion:])
}

// RTMRs returns the registers 0 to 4, nil in the first version.
func (r *Report) RTMRs() [][]byte {
	if r.Version == 1 {
		return nil
	}
	all := make([][]byte, rtmrs)
	for i := range all {
		all[i] = bytes.Clone(r.raw[offRTMRs+i*digestSize:][:digestSize])
	}
	return all
}

// HostData is what the host declared at launch, nil before the third version.
func (r *Report) HostData() []byte {
	if r.Version < 3 {
		return nil
	}
	return bytes.Clone(r.raw[offHostData:][:hostSize])
}

// certOff is where the guest's kernel leaves the platform's certificate.
func (r *Report) certOff() int {
	if r.Version == 1 {
		return offOldCert
	}
	return offNewCert
}

// Policy is what the owner allows the host.
type Policy uint32

// bit tells whether a flag is set.
func (p Policy) bit(n int) uint32 { return uint32(p) >> n & 1 }

// NoDebug is set where the host must not look into the guest.
func (p Policy) NoDebug() bool { return p.bit(0) == 1 }

// Claims returns the policy as Trustee names its parts.
func (p Policy) Claims() map[string]any {
	claims := map[string]any{
		"hsk_version": uint32(p) >> 8 & 0xf, "cek_version": uint32(p) >> 12 & 0xf,
		"api_major": uint32(p) >> 16 & 0xff, "api_minor": uint32(p) >> 24,
	}
	for i, name := range []string{"nodbg", "noks", "es", "nosend", "domain", "csv", "csv3", "asid_reuse"} {
		claims[name] = p.bit(i)
	}
	return claims
}
