// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package ovmf reads what a firmware image says about itself to the VMM: the
// table of GUIDs at its end, and the metadata for AMD SEV that the table leads
// to. The formats are those of edk2's OvmfPkg/ResetVector.
//
// Trust: firmware comes from a distribution or a stranger; every offset in it
// may be wrong, and is checked.
package ovmf

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// ErrFirmware is wrapped by errors about an image that is not what it should be.
var ErrFirmware = errors.New("unusable firmware")

// GUID is one in the order of bytes that firmware has them in.
type GUID [16]byte

// guid reads the text form, of which the first three parts are little-endian.
func guid(text string) GUID {
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(b) != 16 {
		return GUID{} // a constant of this package; a test looks at each
	}
	return GUID{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]}
}

// Entries of the table.
func footerGUID() GUID   { return guid("96b582de-1fb2-45f7-baea-a366c55a082d") }
func hashesGUID() GUID   { return guid("7255371f-3a3b-4b04-927b-1da6efa8d454") }
func resetGUID() GUID    { return guid("00f771de-1a7e-4fcb-890e-68c77e2fb44e") }
func sevGUID() GUID      { return guid("dc886566-984a-4798-a75e-5585a7bf67cc") }
func tdxGUID() GUID      { return guid("e47a6535-984a-4798-865e-4685a7bf8ec2") }
func svsmInfoGUID() GUID { return guid("a789a612-0597-4c4b-a49f-cbb1fe9d1ddd") }

const (
	// behindTable is what follows the table: the reset vector.
	behindTable = 32
	entryHead   = 18
	// minHashTable is what QEMU writes: a table of three hashes, padded.
	minHashTable = 176
	maxImage     = 64 << 20
	maxSections  = 4096
	// maxMeasured bounds what all sections of an image may name together, so
	// that a few bytes of metadata do not cost hours of hashing.
	maxMeasured = 1 << 30
	pageSize    = 4096
	fourGiB     = 1 << 32
)

// Types of sections of the metadata for SEV.
const (
	SecMem       = 1
	Secrets      = 2
	CPUID        = 3
	SVSMCAA      = 4
	KernelHashes = 0x10
)

// Section is a piece of guest memory that the metadata names: whole pages below
// 4 GiB.
type Section struct {
	GPA, Size, Type uint32
}

// Image is a firmware image, or its end.
type Image struct {
	Data  []byte
	table map[GUID][]byte
}

// Parse reads the table of GUIDs. An image without one has no entries.
func Parse(data []byte) (*Image, error) {
	i := &Image{Data: data, table: map[GUID][]byte{}}
	end := len(data) - behindTable
	if end < entryHead || len(data) > maxImage {
		return nil, fmt.Errorf("image of %d bytes, want %d to %d: %w", len(data), behindTable+entryHead, maxImage, ErrFirmware)
	}
	if GUID(data[end-16:end]) != footerGUID() {
		return i, nil
	}
	size := int(binary.LittleEndian.Uint16(data[end-entryHead:]))
	if size < entryHead || size > end {
		return nil, fmt.Errorf("table of %d bytes: %w", size, ErrFirmware)
	}
	for rest := data[end-size : end-entryHead]; len(rest) >= entryHead; {
		at := len(rest) - entryHead
		size := int(binary.LittleEndian.Uint16(rest[at:]))
		if size < entryHead || size > len(rest) {
			return nil, fmt.Errorf("entry of %d bytes in a table that has %d left: %w", size, len(rest), ErrFirmware)
		}
		id := GUID(rest[at+2:])
		if _, ok := i.table[id]; ok {
			// Readers disagree which one counts.
			return nil, fmt.Errorf("entry %x is there twice: %w", id, ErrFirmware)
		}
		i.table[id] = rest[len(rest)-size : at]
		rest = rest[:len(rest)-size]
	}
	return i, nil
}

// GPA is where the image begins in the guest's memory; it ends at 4 GiB.
func (i *Image) GPA() uint64 { return fourGiB - uint64(len(i.Data)) }

// number returns the number at the start of an entry, and whether it is there.
func (i *Image) number(g GUID) (uint32, bool) {
	b := i.table[g]
	if len(b) < 4 {
		return 0, false
	}
	return binary.LittleEndian.Uint32(b), true
}

// HashTable is the guest address of the table of hashes; false if the firmware
// has no place for one that is large enough.
func (i *Image) HashTable() (uint32, bool) {
	b := i.table[hashesGUID()]
	if len(b) < 8 {
		return 0, false
	}
	base, size := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	return base, base != 0 && size >= minHashTable
}

// ResetEIP is where processors but the first begin.
func (i *Image) ResetEIP() (uint32, error) {
	eip, ok := i.number(resetGUID())
	if !ok || eip == 0 {
		return 0, fmt.Errorf("it says not where further processors begin: %w", ErrFirmware)
	}
	return eip, nil
}

// SVSMOffset is where an SVSM begins, from its own start.
func (i *Image) SVSMOffset() (uint32, error) {
	at, ok := i.number(svsmInfoGUID())
	if !ok {
		return 0, fmt.Errorf("it says not where the SVSM begins: %w", ErrFirmware)
	}
	return at, nil
}

// fromEnd returns what follows an offset that counts from the end.
func (i *Image) fromEnd(offset uint32) ([]byte, error) {
	if uint64(offset) > uint64(len(i.Data)) {
		return nil, fmt.Errorf("metadata %d bytes before the end of %d: %w", offset, len(i.Data), ErrFirmware)
	}
	return i.Data[len(i.Data)-int(offset):], nil
}

// TDXMetadata returns what is from the metadata for TDX to the end.
func (i *Image) TDXMetadata() ([]byte, error) {
	offset, ok := i.number(tdxGUID())
	if !ok {
		return nil, fmt.Errorf("it has no metadata for TDX: %w", ErrFirmware)
	}
	return i.fromEnd(offset)
}

// Sections returns those of the metadata for SEV, in its order, which is that of
// measurement. There may be none.
func (i *Image) Sections() ([]Section, error) {
	offset, ok := i.number(sevGUID())
	if !ok {
		return nil, nil
	}
	b, err := i.fromEnd(offset)
	if err != nil {
		return nil, err
	}
	const head, one = 16, 12
	if len(b) < head || string(b[:4]) != "ASEV" || binary.LittleEndian.Uint32(b[8:]) != 1 {
		return nil, fmt.Errorf("metadata for SEV without its mark, or not of version 1: %w", ErrFirmware)
	}
	size, count := binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[12:])
	if uint64(size) > uint64(len(b)) || count > maxSections || uint64(size) < head+one*uint64(count) {
		return nil, fmt.Errorf("metadata for SEV of %d sections in %d bytes, of which %d are there: %w", count, size, len(b), ErrFirmware)
	}
	list, measured := make([]Section, count), uint64(0)
	for n := range list {
		at := b[head+one*n:]
		s := Section{GPA: binary.LittleEndian.Uint32(at), Size: binary.LittleEndian.Uint32(at[4:]), Type: binary.LittleEndian.Uint32(at[8:])}
		if s.Size == 0 || s.Size%pageSize != 0 || s.GPA%pageSize != 0 || uint64(s.GPA)+uint64(s.Size) > fourGiB {
			return nil, fmt.Errorf("section of type %#x at %#x, %#x bytes, is not of whole pages below 4 GiB: %w", s.Type, s.GPA, s.Size, ErrFirmware)
		}
		if measured += uint64(s.Size); measured > maxMeasured {
			return nil, fmt.Errorf("sections of more than %d bytes: %w", maxMeasured, ErrFirmware)
		}
		list[n] = s
	}
	return list, nil
}
