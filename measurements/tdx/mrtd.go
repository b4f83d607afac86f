// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package tdx predicts what the registers of an Intel TDX guest hold after it
// was launched by QEMU with a kernel: MRTD, RTMR1 and RTMR2. RTMR0 depends on
// the machine that the host makes; some of its events can be predicted, and a
// verifier replays the event log for the others.
//
// It follows the TDX module's rules for MRTD, and edk2 and QEMU for the others,
// whose releases differ. What is predicted comes with the steps that lead there,
// so that a report can go from a register to a file.
//
// Trust: firmware and kernel are the caller's, but may come from a stranger, and
// what they say of themselves is checked. An event log is a guest's claim, that
// only the registers of a verified quote confirm.
package tdx

import (
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"hash"

	"cocoon/measurements/ovmf"
)

// Register is the value of a register.
type Register [sha512.Size384]byte

const (
	pageSize   = 4096
	chunk      = 256
	mrExtend   = 1       // of the content
	pageAug    = 2       // added later, and not measured
	maxMemory  = 1 << 30 // of all sections, so that a few bytes do not cost hours
	sectionLen = 32
	maxEntries = 256
)

// Section is a part of the guest's memory that firmware names.
type Section struct {
	DataOffset, RawSize uint32
	Address, Size       uint64
	Type, Attributes    uint32
	content             []byte // from the image
}

// Sections returns those of an image, in the order in which they are added.
func Sections(i *ovmf.Image) ([]Section, error) {
	b, err := i.TDXMetadata()
	if err != nil {
		return nil, err
	}
	u32 := binary.LittleEndian.Uint32
	if len(b) < 16 || string(b[:4]) != "TDVF" || u32(b[8:]) != 1 {
		return nil, fmt.Errorf("metadata for TDX without its mark, or not of version 1: %w", ovmf.ErrFirmware)
	}
	count := int(u32(b[12:]))
	if count > maxEntries || len(b) < 16+count*sectionLen {
		return nil, fmt.Errorf("metadata for TDX of %d sections in %d bytes: %w", count, len(b), ovmf.ErrFirmware)
	}
	list, total := make([]Section, count), uint64(0)
	for n := range list {
		at := b[16+n*sectionLen:]
		list[n] = Section{
			DataOffset: u32(at), RawSize: u32(at[4:]), Address: binary.LittleEndian.Uint64(at[8:]), Size: binary.LittleEndian.Uint64(at[16:]),
			Type: u32(at[24:]), Attributes: u32(at[28:]),
		}
		if err := list[n].check(i); err != nil {
			return nil, fmt.Errorf("section %d: %w", n, err)
		}
		if total += list[n].Size; total > maxMemory {
			return nil, fmt.Errorf("more than %d bytes up to section %d: %w", maxMemory, n, ovmf.ErrFirmware)
		}
	}
	return list, nil
}

// check bounds a section, and finds its content.
func (s *Section) check(i *ovmf.Image) error {
	end := uint64(s.DataOffset) + uint64(s.RawSize)
	switch {
	case s.Address%pageSize != 0 || s.Size%pageSize != 0 || s.Size == 0 || s.Size > maxMemory:
		return fmt.Errorf("%#x bytes at %#x: %w", s.Size, s.Address, ovmf.ErrFirmware)
	case end > uint64(len(i.Data)) || uint64(s.RawSize) > s.Size:
		return fmt.Errorf("%#x bytes from %#x of an image of %#x: %w", s.RawSize, s.DataOffset, len(i.Data), ovmf.ErrFirmware)
	}
	s.content = i.Data[s.DataOffset:end]
	return nil
}

// typeName is how edk2 and td-shim call the kind of a section.
func (s *Section) typeName() string {
	names := []string{"BFV", "CFV", "TD_HOB", "TEMP_MEM", "PERM_MEM", "PAYLOAD", "PAYLOAD_PARAM"}
	if s.Type < uint32(len(names)) {
		return names[s.Type]
	}
	return fmt.Sprintf("type %d", s.Type)
}

// what says which part of the guest's memory it is, and what was done with it.
func (s *Section) what() string {
	done := "added"
	if s.Attributes&pageAug != 0 {
		done = "not added"
	}
	if s.Attributes&mrExtend != 0 {
		done += " and measured"
	}
	return fmt.Sprintf("%s, %d pages at %#x, %s", s.typeName(), s.Size/pageSize, s.Address, done)
}

// MRTD is the measurement of a firmware by KVM and QEMU as they are upstream:
// each page is added and, where the metadata says so, its content measured.
func MRTD(i *ovmf.Image) (Register, error) {
	value, _, err := mrtd(i, false)
	return value, err
}

// MRTDTwoPass is that of older stacks out of the tree, which added all pages of
// a section before they measured the first.
func MRTDTwoPass(i *ovmf.Image) (Register, error) {
	value, _, err := mrtd(i, true)
	return value, err
}

// MRTDSteps is MRTD, or MRTDTwoPass, with a step for each section. The digest of
// a step is that of the section's content in the image, if that is measured.
func MRTDSteps(i *ovmf.Image, twoPass bool) (Register, []Step, error) { return mrtd(i, twoPass) }

func mrtd(i *ovmf.Image, twoPass bool) (Register, []Step, error) {
	list, err := Sections(i)
	if err != nil {
		return Register{}, nil, err
	}
	h := sha512.New384()
	steps := make([]Step, len(list))
	for n, s := range list {
		for at := uint64(0); at < s.Size; at += pageSize {
			s.add(h, at)
			if !twoPass {
				s.extend(h, at)
			}
		}
		for at := uint64(0); twoPass && at < s.Size; at += pageSize {
			s.extend(h, at)
		}
		steps[n] = Step{Input: "firmware", What: s.what(), Value: Register(h.Sum(nil))}
		if s.Attributes&mrExtend != 0 {
			steps[n].Digest = sha512.Sum384(s.content)
		}
	}
	return Register(h.Sum(nil)), steps, nil
}

// operation is what is hashed for one call of the TDX module.
func operation(name string, gpa uint64) []byte {
	b := make([]byte, 128)
	copy(b, name)
	binary.LittleEndian.PutUint64(b[16:], gpa)
	return b
}

func (s *Section) add(h hash.Hash, at uint64) {
	if s.Attributes&pageAug == 0 {
		h.Write(operation("MEM.PAGE.ADD", s.Address+at))
	}
}

func (s *Section) extend(h hash.Hash, at uint64) {
	if s.Attributes&mrExtend == 0 {
		return
	}
	page := make([]byte, pageSize)
	if at < uint64(len(s.content)) {
		copy(page, s.content[at:])
	}
	for c := uint64(0); c < pageSize; c += chunk {
		h.Write(operation("MR.EXTEND", s.Address+at+c))
		h.Write(page[c : c+chunk])
	}
}
