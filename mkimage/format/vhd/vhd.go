// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package vhd makes a raw disk a virtual hard disk of fixed size, which is what
// Azure takes. Such a file is the raw disk with a footer behind it, as
// Microsoft's specification of the format has it, with the fields that qemu-img
// writes under force_size: from these, readers take the size in bytes and not
// that in cylinders.
package vhd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/google/uuid"
)

const (
	// FooterSize is the size of the footer.
	FooterSize = 512
	mib        = 1 << 20
	// maxSize is what the format allows.
	maxSize = 2040 << 30
	// zeroTime is 2000-01-01 in Unix seconds.
	zeroTime = 946684800
)

// ErrSize is wrapped by errors about a disk that Azure would refuse: one that is
// not of whole MiB, or too large.
var ErrSize = errors.New("not a size for a disk of Azure")

// Footer returns what stands behind a raw disk of size bytes. The epoch is in
// Unix seconds; the format has no time before the year 2000.
func Footer(size int64, id uuid.UUID, epoch int64) ([]byte, error) {
	if size <= 0 || size%mib != 0 || size > maxSize {
		return nil, fmt.Errorf("%d bytes: %w", size, ErrSize)
	}
	seconds := max(epoch, zeroTime) - zeroTime
	if seconds > math.MaxUint32 {
		return nil, fmt.Errorf("epoch %d is later than the format can say", epoch)
	}
	b := make([]byte, FooterSize)
	copy(b, "conectix")
	put32 := binary.BigEndian.PutUint32
	put32(b[8:], 2)
	put32(b[12:], 0x00010000)
	binary.BigEndian.PutUint64(b[16:], math.MaxUint64) // there is no other header
	put32(b[24:], uint32(seconds))
	copy(b[28:], "qem2\x00\x05\x00\x03Wi2k")
	binary.BigEndian.PutUint64(b[40:], uint64(size))
	binary.BigEndian.PutUint64(b[48:], uint64(size))
	copy(b[56:], []byte{0xff, 0xff, 16, 255}) // cylinders, heads, sectors
	put32(b[60:], 2)                          // fixed size
	copy(b[68:], id[:])
	var sum uint32
	for _, c := range b {
		sum += uint32(c)
	}
	put32(b[64:], ^sum)
	return b, nil
}
