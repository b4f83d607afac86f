// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tdx

import (
	"encoding/binary"
	"fmt"
	"slices"

	"cocoon/measurements/ovmf"
	"cocoon/measurements/pe/direct"
)

// Types of sections that QEMU has in memory.
const (
	typeCFV     = 1
	typeHOB     = 2
	typeTempMem = 3
)

const (
	fourGiB  = 1 << 32
	maxGuest = 1 << 46
)

// Types of resources, and what they have in common, as UEFI's PI has them.
const (
	resourceMemory     = 0
	resourceUnaccepted = 7
	resourceAttributes = 7 // present, initialised, tested

	hobHandoff  = 1
	hobResource = 3

	handoffSize  = 56
	resourceSize = 48
	hobEnd       = 8
)

// ramRange is a part of the guest's memory.
type ramRange struct {
	start, size uint64
	accepted    bool
}

// TDHOB is the list of blocks in which QEMU tells the firmware what memory there
// is, as far as the firmware measures it: without the entry at its end. memory
// is the guest's in bytes.
func TDHOB(sections []Section, memory uint64) ([]byte, error) {
	at := slices.IndexFunc(sections, func(s Section) bool { return s.Type == typeHOB })
	if at < 0 {
		return nil, fmt.Errorf("no section for the TD HOB: %w", ovmf.ErrFirmware)
	}
	ram, err := ranges(sections, memory)
	if err != nil {
		return nil, err
	}
	size := uint64(handoffSize + len(ram)*resourceSize)
	if size+hobEnd > sections[at].Size {
		return nil, fmt.Errorf("TD HOB of %d bytes in a section of %d: %w", size+hobEnd, sections[at].Size, ovmf.ErrFirmware)
	}
	b := make([]byte, handoffSize, size)
	put16, put32, put64 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32, binary.LittleEndian.PutUint64
	put16(b, hobHandoff)
	put16(b[2:], handoffSize)
	put32(b[8:], 9) // version
	put64(b[48:], sections[at].Address+size+hobEnd)
	for _, r := range ram {
		e := make([]byte, resourceSize)
		put16(e, hobResource)
		put16(e[2:], resourceSize)
		put32(e[24:], resourceUnaccepted)
		if r.accepted {
			put32(e[24:], resourceMemory)
		}
		put32(e[28:], resourceAttributes)
		put64(e[32:], r.start)
		put64(e[40:], r.size)
		b = append(b, e...)
	}
	return b, nil
}

// ranges is the memory of q35, cut where sections of the firmware lie in it.
func ranges(sections []Section, memory uint64) ([]ramRange, error) {
	if memory == 0 || memory > maxGuest || memory%pageSize != 0 {
		return nil, fmt.Errorf("memory of %d bytes: %w", memory, direct.ErrConfig)
	}
	below := direct.Below4GiB(memory)
	ram := []ramRange{{size: below}}
	if memory > below {
		ram = append(ram, ramRange{start: fourGiB, size: memory - below})
	}
	for _, s := range sections {
		if s.Type != typeHOB && s.Type != typeTempMem {
			continue
		}
		n := slices.IndexFunc(ram, func(r ramRange) bool {
			return !r.accepted && s.Address >= r.start && s.Address-r.start <= r.size && s.Size <= r.size-(s.Address-r.start)
		})
		if n < 0 {
			return nil, fmt.Errorf("section of %#x bytes at %#x is not in free memory: %w", s.Size, s.Address, ovmf.ErrFirmware)
		}
		parts := []ramRange{{start: s.Address, size: s.Size, accepted: true}}
		if r := ram[n]; s.Address > r.start {
			parts = append([]ramRange{{start: r.start, size: s.Address - r.start}}, parts...)
		}
		end := s.Address + s.Size
		if rest := ram[n].start + ram[n].size - end; rest > 0 {
			parts = append(parts, ramRange{start: end, size: rest})
		}
		ram = slices.Replace(ram, n, n+1, parts...)
	}
	return ram, nil
}
