// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Sizes and places in a report, in bytes.
const (
	// ReportSize is the size of a report with its signature.
	ReportSize = 1184
	// DataSize is the size of the report data.
	DataSize = 64
	// HostDataSize is the size of HOST_DATA, the host's field for initdata.
	HostDataSize = 32

	minVersion, maxVersion = 2, 5

	offVersion, offPolicy, offVMPL        = 0x00, 0x08, 0x30
	offPlatInfo, offKeyInfo               = 0x40, 0x48
	offReportData, offMeasurement         = 0x50, 0x90
	offHostData, offReportedTCB           = 0xC0, 0x180
	offFamily, offModel, offStep          = 0x188, 0x189, 0x18A
	offChipID, chipIDSize                 = 0x1A0, 64
	offLaunchMitigation, offCurMitigation = 0x1F8, 0x200
	offSignature                          = 0x2A0
)

// ErrReport is returned for what is no report.
var ErrReport = errors.New("no SNP report")

// Report is an attestation report as the processor signed it.
type Report [ReportSize]byte

// ParseReport takes the report at the start of b, which may be longer.
func ParseReport(b []byte) (*Report, error) {
	if len(b) < ReportSize {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrReport, len(b), ReportSize)
	}
	r := Report(b[:ReportSize])
	if v := r.Version(); v < minVersion || v > maxVersion {
		return nil, fmt.Errorf("%w: version %d, want %d to %d", ErrReport, v, minVersion, maxVersion)
	}
	return &r, nil
}

func (r *Report) u32(off int) uint32 { return binary.LittleEndian.Uint32(r[off:]) }
func (r *Report) u64(off int) uint64 { return binary.LittleEndian.Uint64(r[off:]) }

// Version is that of the report's form.
func (r *Report) Version() uint32 { return r.u32(offVersion) }

// VMPL is the privilege level that asked for the report, 0 is the highest.
func (r *Report) VMPL() uint32 { return r.u32(offVMPL) }

// Policy is the guest policy of the launch.
func (r *Report) Policy() Policy { return Policy(r.u64(offPolicy)) }

// PlatformInfo tells how the machine is set up.
func (r *Report) PlatformInfo() PlatformInfo { return PlatformInfo(r.u64(offPlatInfo)) }

// ReportData is what the guest asked to have signed, 64 bytes.
func (r *Report) ReportData() []byte { return r[offReportData:][:DataSize] }

// Measurement is the launch digest, 48 bytes.
func (r *Report) Measurement() []byte { return r[offMeasurement:][:48] }

// HostData is what the host declared at launch, 32 bytes.
func (r *Report) HostData() []byte { return r[offHostData:][:HostDataSize] }

// ChipID names the processor, 64 bytes; all zero if it is masked.
func (r *Report) ChipID() []byte { return r[offChipID:][:chipIDSize] }

// SignedByVLEK tells whether the key of a cloud provider has signed, and not
// the processor's own, the VCEK.
func (r *Report) SignedByVLEK() bool { return r.u32(offKeyInfo)>>2&7 == 1 }

// ReportedTCB is the level of the platform's firmware that the key stands for.
func (r *Report) ReportedTCB() TCB { return r.tcb(offReportedTCB) }

// Policy is a guest policy.
type Policy uint64

// ABIMinor is the least minor version of the firmware's interface.
func (p Policy) ABIMinor() uint8 { return uint8(p) }

// ABIMajor is the least major version of the firmware's interface.
func (p Policy) ABIMajor() uint8 { return uint8(p >> 8) }

// SMT allows simultaneous multithreading.
func (p Policy) SMT() bool { return p>>16&1 == 1 }

// MigrationAgent allows an agent that may move the guest to another machine.
func (p Policy) MigrationAgent() bool { return p>>18&1 == 1 }

// Debug allows the host to look into the guest.
func (p Policy) Debug() bool { return p>>19&1 == 1 }

// SingleSocket allows one socket only.
func (p Policy) SingleSocket() bool { return p>>20&1 == 1 }

// PlatformInfo tells how a machine is set up.
type PlatformInfo uint64

// SMT tells that simultaneous multithreading is on.
func (p PlatformInfo) SMT() bool { return p&1 == 1 }

// TSME tells that all memory is encrypted.
func (p PlatformInfo) TSME() bool { return p>>1&1 == 1 }

// Product is a line of processors, as AMD's key service names it.
type Product string

// The product lines.
const (
	Milan Product = "Milan"
	Genoa Product = "Genoa"
	Turin Product = "Turin"
)

// ErrProduct is returned for a processor that this code does not know.
var ErrProduct = errors.New("unknown processor")

// Product returns the line of the processor. Reports of version 2 do not say
// which it is.
func (r *Report) Product() (Product, error) {
	if r.Version() < 3 {
		return "", fmt.Errorf("%w: a report of version %d names none", ErrProduct, r.Version())
	}
	family, model := r[offFamily], r[offModel]
	switch {
	case family == 0x19 && model <= 0x0F:
		return Milan, nil
	case family == 0x19 && (model>>4 == 0x1 || model>>4 == 0xA):
		return Genoa, nil
	case family == 0x1A && model <= 0x11:
		return Turin, nil
	}
	return "", fmt.Errorf("%w: family %#x, model %#x", ErrProduct, family, model)
}

// TCB is the security version of each part of a platform's firmware.
type TCB struct {
	// FMC is nil on processors before Turin, which have none.
	FMC        *uint8 `json:"fmc"`
	Bootloader uint8  `json:"bootloader"`
	TEE        uint8  `json:"tee"`
	SNP        uint8  `json:"snp"`
	Microcode  uint8  `json:"microcode"`
}

// turin tells whether TCB versions are laid out as on Turin.
func (r *Report) turin() bool {
	if r.Version() >= 3 {
		p, err := r.Product()
		return err == nil && p == Turin
	}
	// Turin's chip ids have 8 bytes. One that is masked is no hint.
	id := r.ChipID()
	return allZero(id[8:]) && !allZero(id[:8])
}

func (r *Report) tcb(off int) TCB {
	b := r[off:][:8]
	if r.turin() {
		fmc := b[0]
		return TCB{FMC: &fmc, Bootloader: b[1], TEE: b[2], SNP: b[3], Microcode: b[7]}
	}
	return TCB{Bootloader: b[0], TEE: b[1], SNP: b[6], Microcode: b[7]}
}

func (r *Report) setTCB(off int, t TCB) {
	b := r[off:][:8]
	if t.FMC != nil {
		b[0], b[1], b[2], b[3] = *t.FMC, t.Bootloader, t.TEE, t.SNP
	} else {
		b[0], b[1], b[6] = t.Bootloader, t.TEE, t.SNP
	}
	b[7] = t.Microcode
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
