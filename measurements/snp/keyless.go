// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
)

// fixedScalar is both halves of a signature that nobody made. It is the least
// number that is the x of a point of P-384.
const fixedScalar = 2

// errNoPoint is about one block in 2^384.
var errNoPoint = errors.New("no key has the fixed signature over it")

// AuthWithoutKey authenticates a block where nobody keeps a key: the signature is
// a constant, and the key is the one that it verifies under. Its private half is
// unknown to all, and another block has another key, so the block binds digest
// and policy of the guest, and its maker has no secret to lose.
func AuthWithoutKey(b IDBlock) ([]byte, *ecdsa.PublicKey, error) {
	key, err := recovered(b.Bytes())
	if err != nil {
		return nil, nil, fmt.Errorf("find the key of an ID block: %w", err)
	}
	raw, err := PublicKey(key)
	if err != nil {
		return nil, nil, err
	}
	out := make([]byte, idAuthSize)
	binary.LittleEndian.PutUint32(out, algoECDSA)
	fixed := big.NewInt(fixedScalar)
	putSignature(out[atIDSignature:], fixed, fixed)
	copy(out[atIDKey:], raw)
	return out, key, nil
}

// recovered returns the key Q under which (r, r) is a signature of b. A signature
// holds if (z/s)G + (r/s)Q has r for its x; with s = r that leaves
// Q = R - (z/r)G, R being the point at r with the even y.
func recovered(b []byte) (*ecdsa.PublicKey, error) {
	curve := elliptic.P384().Params()
	digest := sha512.Sum384(b)
	r := big.NewInt(fixedScalar)
	k := new(big.Int).ModInverse(r, curve.N)
	k.Mul(k, new(big.Int).SetBytes(digest[:])).Mod(k, curve.N)
	private, err := ecdh.P384().NewPrivateKey(k.FillBytes(make([]byte, 48)))
	if err != nil {
		return nil, errors.Join(errNoPoint, err)
	}
	point := private.PublicKey().Bytes()
	x, y := new(big.Int).SetBytes(point[1:49]), new(big.Int).SetBytes(point[49:])
	y.Sub(curve.P, y)

	// The square of R's y is r^3 - 3r + b.
	ry := new(big.Int).Mul(r, big.NewInt(fixedScalar*fixedScalar-3))
	if ry.Add(ry, curve.B).ModSqrt(ry, curve.P) == nil {
		return nil, errNoPoint
	}
	if ry.Bit(0) == 1 {
		ry.Sub(curve.P, ry)
	}
	out := append([]byte{4}, make([]byte, 96)...)
	if !sum(out[1:], curve.P, r, ry, x, y) {
		return nil, errNoPoint
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P384(), out)
	if err != nil {
		return nil, err
	}
	if !ecdsa.Verify(key, digest[:], r, r) {
		return nil, errNoPoint
	}
	return key, nil
}

// sum writes the coordinates of the sum of two points with different x.
func sum(to []byte, p, x1, y1, x2, y2 *big.Int) bool {
	slope := new(big.Int).Sub(x2, x1)
	if slope.ModInverse(slope.Mod(slope, p), p) == nil {
		return false
	}
	slope.Mul(slope, new(big.Int).Sub(y2, y1)).Mod(slope, p)
	x := new(big.Int).Mul(slope, slope)
	x.Sub(x, x1).Sub(x, x2).Mod(x, p)
	y := new(big.Int).Sub(x1, x)
	y.Mul(y, slope).Sub(y, y1).Mod(y, p)
	x.FillBytes(to[:48])
	y.FillBytes(to[48:])
	return true
}
