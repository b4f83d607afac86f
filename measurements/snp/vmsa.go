// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"encoding/binary"
	"fmt"

	"cocoon/measurements/ovmf"
)

// state is a processor's save area (VMSA) as it is measured.
type state [pageSize]byte

// segment is a register with what stands behind it.
type segment struct {
	selector, attributes uint16
	limit                uint32
	base                 uint64
}

func (s *state) u16(at int, v uint16) { binary.LittleEndian.PutUint16(s[at:], v) }
func (s *state) u32(at int, v uint32) { binary.LittleEndian.PutUint32(s[at:], v) }
func (s *state) u64(at int, v uint64) { binary.LittleEndian.PutUint64(s[at:], v) }

func (s *state) segment(at int, g segment) {
	s.u16(at, g.selector)
	s.u16(at+2, g.attributes)
	s.u32(at+4, g.limit)
	s.u64(at+8, g.base)
}

// Places in a save area, from the manual's table of the VMSA.
const (
	atES, atCS, atSS, atDS, atFS, atGS        = 0x00, 0x10, 0x20, 0x30, 0x40, 0x50
	atGDTR, atLDTR, atIDTR, atTR              = 0x60, 0x70, 0x80, 0x90
	atEFER, atCR4, atCR0, atDR7, atDR6        = 0xd0, 0x148, 0x158, 0x160, 0x168
	atRFLAGS, atRIP, atPAT, atRDX             = 0x170, 0x178, 0x268, 0x310
	atFeatures, atXCR0, atMXCSR, atFCW        = 0x3b0, 0x3e8, 0x408, 0x410
	efer, cr4, cr0, dr7, dr6                  = 0x1000, 0x40, 0x10, 0x400, 0xffff0ff0
	pat, patGCE, mxcsr, fcw            uint64 = 0x0007040600070406, 0x00070106, 0x1f80, 0x37f
)

// states returns the state of the first processor and that of all others.
func (cfg Config) states() (first, further state, err error) {
	if cfg.SVSM != nil {
		offset, err := cfg.SVSM.SVSMOffset()
		if err != nil {
			return first, further, err
		}
		if uint64(offset) >= uint64(len(cfg.SVSM.Data)) {
			return first, further, fmt.Errorf("SVSM of %d bytes begins at %#x: %w", len(cfg.SVSM.Data), offset, ovmf.ErrFirmware)
		}
		s := cfg.svsmState(uint32(cfg.svsmGPA()) + offset)
		return s, s, nil
	}
	eip, err := cfg.Firmware.ResetEIP()
	if err != nil {
		return first, further, err
	}
	if first, err = cfg.state(bspEIP); err != nil {
		return first, further, err
	}
	further, err = cfg.state(eip)
	return first, further, err
}

// common is what all VMMs set alike for a processor after its reset.
func (cfg Config) common() (s state) {
	s.u64(atEFER, efer)
	s.u64(atCR4, cr4)
	s.u64(atCR0, cr0)
	s.u64(atDR7, dr7)
	s.u64(atDR6, dr6)
	s.u64(atRFLAGS, 2)
	s.u64(atPAT, pat)
	s.u64(atFeatures, cfg.Features)
	s.u64(atXCR0, 1)
	for _, at := range []int{atGDTR, atIDTR} {
		s.segment(at, segment{limit: 0xffff})
	}
	s.segment(atLDTR, segment{attributes: 0x82, limit: 0xffff})
	s.segment(atTR, segment{attributes: 0x8b, limit: 0xffff})
	return s
}

// state is that of a processor that begins at eip in real mode.
func (cfg Config) state(eip uint32) (state, error) {
	s := cfg.common()
	code := segment{selector: 0xf000, attributes: 0x9b, limit: 0xffff, base: uint64(eip & 0xffff0000)}
	stack := segment{attributes: 0x93, limit: 0xffff}
	for _, at := range []int{atES, atDS, atFS, atGS} {
		s.segment(at, segment{attributes: 0x93, limit: 0xffff})
	}
	switch cfg.VMM {
	case QEMU:
		s.u64(atRDX, uint64(cfg.Signature))
		s.u32(atMXCSR, uint32(mxcsr))
		s.u16(atFCW, uint16(fcw))
	case EC2:
		if eip == bspEIP {
			code.attributes = 0x9a
		}
		stack.attributes = 0x92
		s.segment(atTR, segment{attributes: 0x83, limit: 0xffff})
		s.u64(atRDX, 0x600)
	case GCE:
		s.u64(atPAT, patGCE)
		s.u64(atRDX, 0x600)
	default:
		return s, fmt.Errorf("VMM %.20q, want %s, %s or %s: %w", cfg.VMM, QEMU, EC2, GCE, ErrConfig)
	}
	s.segment(atCS, code)
	s.segment(atSS, stack)
	s.u64(atRIP, uint64(eip&0xffff))
	return s, nil
}

// svsmState is that of a processor that begins in a service module, in flat
// 32-bit mode.
func (cfg Config) svsmState(eip uint32) state {
	cfg.Features = 1
	s := cfg.common()
	for _, at := range []int{atES, atSS, atDS, atFS} {
		s.segment(at, segment{selector: 0x10, attributes: 0xc93, limit: 0xffffffff})
	}
	s.segment(atGS, segment{attributes: 0x93, limit: 0xffff})
	s.segment(atCS, segment{selector: 8, attributes: 0xc9b, limit: 0xffffffff})
	s.u64(atCR0, cr0|1)
	s.u64(atRDX, uint64(cfg.Signature))
	s.u32(atMXCSR, uint32(mxcsr))
	s.u64(atRIP, uint64(eip))
	return s
}
