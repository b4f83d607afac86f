// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package sm3 is the hash function SM3 of GB/T 32905-2016, which Hygon's
// processors measure with. It is small and not fast: a guest hashes less than a
// page with it.
package sm3

import (
	"encoding/binary"
	"hash"
	"math/bits"
)

const (
	// Size is that of a digest, in bytes.
	Size = 32
	// BlockSize is that of a block, in bytes.
	BlockSize = 64

	lengthSize = 8
	words      = 16
	rounds     = 64
)

// digest is the state between writes.
type digest struct {
	h      [8]uint32
	rest   [BlockSize]byte
	n      int // bytes in rest
	length uint64
}

// New returns a hash.
func New() hash.Hash {
	d := &digest{}
	d.Reset()
	return d
}

// Sum returns the digest of b.
func Sum(b []byte) [Size]byte {
	d := &digest{}
	d.Reset()
	d.absorb(b)
	return d.finish()
}

func (d *digest) Reset() {
	*d = digest{h: [8]uint32{0x7380166f, 0x4914b2b9, 0x172442d7, 0xda8a0600, 0xa96f30bc, 0x163138aa, 0xe38dee4d, 0xb0fb0e4e}}
}

func (*digest) Size() int      { return Size }
func (*digest) BlockSize() int { return BlockSize }

func (d *digest) Write(b []byte) (int, error) {
	d.absorb(b)
	return len(b), nil
}

func (d *digest) Sum(b []byte) []byte {
	other := *d // more may be written
	sum := other.finish()
	return append(b, sum[:]...)
}

func (d *digest) absorb(b []byte) {
	d.length += uint64(len(b))
	for len(b) > 0 {
		n := copy(d.rest[d.n:], b)
		b = b[n:]
		if d.n += n; d.n == BlockSize {
			d.compress()
			d.n = 0
		}
	}
}

// finish pads with a bit, zeros and the length in bits.
func (d *digest) finish() [Size]byte {
	length := d.length * 8
	pad := make([]byte, 1, 2*BlockSize)
	pad[0] = 0x80
	for (d.n+len(pad))%BlockSize != BlockSize-lengthSize {
		pad = append(pad, 0)
	}
	d.absorb(binary.BigEndian.AppendUint64(pad, length))
	var sum [Size]byte
	for i, v := range d.h {
		binary.BigEndian.PutUint32(sum[4*i:], v)
	}
	return sum
}

// expand makes the words of a block (5.3.2 of the standard).
func expand(block []byte) [rounds + 4]uint32 {
	var w [rounds + 4]uint32
	for i := range words {
		w[i] = binary.BigEndian.Uint32(block[4*i:])
	}
	for i := words; i < len(w); i++ {
		x := w[i-16] ^ w[i-9] ^ bits.RotateLeft32(w[i-3], 15)
		w[i] = x ^ bits.RotateLeft32(x, 15) ^ bits.RotateLeft32(x, 23) ^ bits.RotateLeft32(w[i-13], 7) ^ w[i-6]
	}
	return w
}

// compress takes a block in (5.3.3).
func (d *digest) compress() {
	w := expand(d.rest[:])
	a, b, c, e := d.h[0], d.h[1], d.h[2], d.h[3]
	f, g, h, k := d.h[4], d.h[5], d.h[6], d.h[7]
	for j := range rounds {
		constant, ff, gg := uint32(0x79cc4519), a^b^c, f^g^h
		if j >= words {
			constant, ff, gg = 0x7a879d8a, a&b|a&c|b&c, f&g|^f&h
		}
		ss1 := bits.RotateLeft32(bits.RotateLeft32(a, 12)+f+bits.RotateLeft32(constant, j%32), 7)
		ss2 := ss1 ^ bits.RotateLeft32(a, 12)
		tt1 := ff + e + ss2 + (w[j] ^ w[j+4])
		tt2 := gg + k + ss1 + w[j]
		a, b, c, e = tt1, a, bits.RotateLeft32(b, 9), c
		f, g, h, k = tt2^bits.RotateLeft32(tt2, 9)^bits.RotateLeft32(tt2, 17), f, bits.RotateLeft32(g, 19), h
	}
	for i, v := range [8]uint32{a, b, c, e, f, g, h, k} {
		d.h[i] ^= v
	}
}
