// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package setest makes headers and images of Secure Execution for tests. They
// have the right shape and no machine could run them.
package setest

import (
	"bytes"
	"encoding/binary"
)

// PageSize is the size of what a header may start at.
const PageSize = 4096

// Sizes of a header: without slots, of a slot for a host key, of the encrypted
// part, and of the tag.
const (
	fixed  = 416
	slot   = 80
	secret = 128
	tag    = 16
)

// Header returns a header with one key slot for an image of so many pages. All
// that is random or a digest in it consists of the byte fill.
func Header(fill byte, pages uint64) []byte {
	b := bytes.Repeat([]byte{fill}, fixed+slot+secret+tag)
	copy(b, "IBMSecEx")
	binary.BigEndian.PutUint32(b[8:], 0x100)
	binary.BigEndian.PutUint32(b[12:], uint32(len(b)))
	clear(b[28:32])
	for i, n := range []uint64{1, secret, pages, 0xe0} {
		binary.BigEndian.PutUint64(b[32+8*i:], n)
	}
	return b
}

// Image returns an image of pages around a header, which is in the third.
func Image(header []byte) []byte {
	b := make([]byte, 4*PageSize)
	copy(b, "not a header")
	copy(b[2*PageSize:], header)
	return b
}
