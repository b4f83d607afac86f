// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package se reads the header of an image for IBM Secure Execution, of which the
// ultravisor reports the tag and the digests. They cannot be computed from kernel
// and initrd: whoever builds an image takes random keys for it, so that the
// header is to be kept with the image.
//
// It follows what s390-tools' genprotimg and pvimg write.
//
// Trust: an image may be anybody's. Only a machine whose host key is in a slot of
// the header can tell that the tag is right.
package se

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrHeader is wrapped by errors about what is no header of an image.
var ErrHeader = errors.New("no header of a Secure Execution image")

const (
	mark    = "IBMSecEx"
	version = 0x100
	// MaxHeader bounds a header, in bytes.
	MaxHeader = 8192

	fixedSize  = 416
	slotSize   = 80
	maxSlots   = 95
	minSecret  = 128
	tagSize    = 16
	digestSize = 64
	pageSize   = 4096

	// Bits of the control flags, which IBM counts from the other end.
	flagDump  = 1 << (63 - 34)
	flagPlain = 1 << (63 - 35)
)

// Header is what can be read of one without a key.
type Header struct {
	// Raw is the whole header, as verifiers want it.
	Raw []byte
	IV  [12]byte
	// Pages is how many pages the image has.
	Pages uint64
	Flags uint64
	// CustomerKey is a point of P-521: two coordinates of 80 bytes.
	CustomerKey [160]byte
	// Content, Addresses and Tweaks are the digests of the pages, of where they
	// lie, and of how they are encrypted: PLD, ALD and TLD.
	Content, Addresses, Tweaks [digestSize]byte
	// HostKeys are the hashes of the keys of machines that can run the image.
	HostKeys [][sha256.Size]byte
	// Tag authenticates the header.
	Tag [tagSize]byte
}

// AllowsDump tells whether the host may dump the guest.
func (h *Header) AllowsDump() bool { return h.Flags&flagDump != 0 }

// Plain tells that the pages of the image are not encrypted.
func (h *Header) Plain() bool { return h.Flags&flagPlain != 0 }

// Parse reads a header that is the whole of b.
func Parse(b []byte) (*Header, error) {
	size, err := sizeOf(b)
	if err != nil {
		return nil, err
	}
	if size != len(b) {
		return nil, fmt.Errorf("header of %d bytes in %d: %w", size, len(b), ErrHeader)
	}
	u64 := binary.BigEndian.Uint64
	slots, secret := u64(b[32:]), u64(b[40:])
	if slots == 0 || slots > maxSlots || secret < minSecret || secret > MaxHeader || fixedSize+slots*slotSize+secret+tagSize != uint64(size) {
		return nil, fmt.Errorf("header of %d bytes with %d key slots and %d encrypted bytes: %w", size, slots, secret, ErrHeader)
	}
	h := &Header{
		Raw: bytes.Clone(b), IV: [12]byte(b[16:]), Pages: u64(b[48:]), Flags: u64(b[56:]), CustomerKey: [160]byte(b[64:]),
		Content: [digestSize]byte(b[224:]), Addresses: [digestSize]byte(b[288:]), Tweaks: [digestSize]byte(b[352:]), Tag: [tagSize]byte(b[size-tagSize:]),
	}
	for n := range slots {
		h.HostKeys = append(h.HostKeys, [sha256.Size]byte(b[fixedSize+n*slotSize:]))
	}
	return h, nil
}

// sizeOf is the size that a header says it has, within what b can hold.
func sizeOf(b []byte) (int, error) {
	if len(b) < fixedSize || string(b[:8]) != mark {
		return 0, fmt.Errorf("%d bytes, without %q at the start: %w", len(b), mark, ErrHeader)
	}
	v, size := binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
	if v != version || size < fixedSize || size > MaxHeader || int64(size) > int64(len(b)) {
		return 0, fmt.Errorf("version %#x, of %d bytes, in %d: %w", v, size, len(b), ErrHeader)
	}
	return int(size), nil
}

// Find returns the header in an image, at the start of one of its pages. Two are
// an error: nobody could say which of them the machine takes.
func Find(image []byte) (*Header, error) {
	var found *Header
	var almost error // why what has the mark of one is none
	for at := 0; at < len(image); at += pageSize {
		if !bytes.HasPrefix(image[at:], []byte(mark)) {
			continue
		}
		h, err := parseStart(image[at:])
		if err != nil {
			almost = cmp.Or(almost, fmt.Errorf("at %#x: %w", at, err))
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("the image has a second one at %#x: %w", at, ErrHeader)
		}
		found = h
	}
	if found == nil && almost != nil {
		return nil, almost
	}
	if found == nil {
		return nil, fmt.Errorf("in none of the pages of %d bytes: %w", len(image), ErrHeader)
	}
	return found, nil
}

// parseStart reads a header with which b begins.
func parseStart(b []byte) (*Header, error) {
	size, err := sizeOf(b)
	if err != nil {
		return nil, err
	}
	return Parse(b[:size])
}
