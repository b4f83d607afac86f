// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package gpt writes and reads disks with a GUID partition table, as chapter 5
// of the UEFI specification has it: a protective MBR, the table, and a second
// copy of the table at the end.
//
// What is usually random is given by the caller, and Derive makes it from the
// content: the table is measured into PCR 5.
//
// Trust: what Read is given may be anybody's. It takes no disk whose two tables
// differ, since then it depends on the reader what is where.
package gpt

import (
	"crypto/sha256"
	"errors"
	"slices"

	"github.com/google/uuid"
)

const (
	sector = 512
	// MiB is what the place and the size of a partition are multiples of.
	MiB = 1 << 20
	// maxDisk keeps sums of sizes far from what a number can hold.
	maxDisk = 1 << 46
	// tableSize is the size of the entries of a table.
	tableSize = maxPartitions * entrySize
	// maxPartitions is how many entries a table has that this package writes,
	// or takes.
	maxPartitions = 128
	entrySize     = 128
	headerSize    = 92
	revision      = 0x00010000
	signature     = "EFI PART"
)

// ErrTable is wrapped by errors about a table that is none, or that could not
// be written.
var ErrTable = errors.New("no sound GUID partition table")

// Types of partitions, of the UAPI group's list.
const (
	TypeESP        = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	TypeRoot       = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
	TypeRootVerity = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"
)

// Table is what a table says.
type Table struct {
	// ID is that of the disk.
	ID         uuid.UUID
	Partitions []Partition
}

// Partition is one entry of a table. Offset and Size are in bytes.
type Partition struct {
	Name         string
	Type, ID     uuid.UUID
	Offset, Size int64
}

// Derive returns the identifier with the given purpose of something with the
// given content, or with the content that has this digest.
func Derive(label string, content []byte) uuid.UUID {
	sum := sha256.Sum256(slices.Concat([]byte("cocoon:"), []byte(label), []byte{0}, content))
	id := uuid.UUID(sum[:16])
	id[6] = id[6]&0x0f | 0x80 // version 8: of no other scheme
	id[8] = id[8]&0x3f | 0x80
	return id
}

// header is a table's header as it stands on the disk.
type header struct {
	Signature             [8]byte
	Revision, Size        uint32
	CRC, Reserved         uint32
	This, Other           uint64
	First, Last           uint64
	Disk                  uuid.UUID
	Entries               uint64
	Count, EntrySize, Sum uint32
}

// entry is a partition as it stands on the disk.
type entry struct {
	Type, ID    uuid.UUID
	First, Last uint64
	Attributes  uint64
	Name        [36]uint16
}

// mixed turns the order of bytes in an identifier's text into that of a table,
// which holds the first three numbers little-endian, and back.
func mixed(id uuid.UUID) uuid.UUID {
	slices.Reverse(id[:4])
	slices.Reverse(id[4:6])
	slices.Reverse(id[6:8])
	return id
}
