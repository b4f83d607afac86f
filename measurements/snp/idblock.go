// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"math/big"
	"slices"
)

const (
	idBlockSize = 96
	idAuthSize  = 4096
	keySize     = 1028
	number      = 72 // of a signature or a coordinate, little-endian
	curveP384   = 2
	algoECDSA   = 1 // on P-384 with SHA-384

	atIDSignature, atIDKey         = 0x40, 0x240
	atAuthorSignature, atAuthorKey = 0x680, 0x880
)

// DefaultPolicy allows simultaneous multithreading and nothing else; bit 17 is
// always set.
const DefaultPolicy = 0x30000

// IDBlock is what an owner says about a guest, and the processor checks: a
// guest of another launch digest or policy does not start.
type IDBlock struct {
	LaunchDigest      Digest
	FamilyID, ImageID [16]byte
	GuestSVN          uint32
	Policy            uint64
}

// Bytes is the block as the processor takes it.
func (b IDBlock) Bytes() []byte {
	out := make([]byte, 0, idBlockSize)
	out = append(out, b.LaunchDigest[:]...)
	out = append(out, b.FamilyID[:]...)
	out = append(out, b.ImageID[:]...)
	out = binary.LittleEndian.AppendUint32(out, 1)
	out = binary.LittleEndian.AppendUint32(out, b.GuestSVN)
	return binary.LittleEndian.AppendUint64(out, b.Policy)
}

// PublicKey is a key of P-384 as the processor has it.
func PublicKey(k *ecdsa.PublicKey) ([]byte, error) {
	if k.Curve != elliptic.P384() {
		return nil, fmt.Errorf("key on %s, not P-384: %w", k.Curve.Params().Name, ErrConfig)
	}
	point, err := k.Bytes()
	if err != nil {
		return nil, err
	}
	out := make([]byte, keySize)
	binary.LittleEndian.PutUint32(out, curveP384)
	reversed(out[4:], point[1:49])
	reversed(out[4+number:], point[49:])
	return out, nil
}

// KeyDigest is by what a report names a key.
func KeyDigest(k *ecdsa.PublicKey) (Digest, error) {
	raw, err := PublicKey(k)
	return sha512.Sum384(raw), err
}

// Auth signs a block, and author, if it is not nil, the key that did.
func Auth(b IDBlock, id, author *ecdsa.PrivateKey) ([]byte, error) {
	out := make([]byte, idAuthSize)
	binary.LittleEndian.PutUint32(out, algoECDSA)
	key, err := signed(out[atIDSignature:], b.Bytes(), id)
	if err != nil {
		return nil, fmt.Errorf("sign the ID block: %w", err)
	}
	copy(out[atIDKey:], key)
	if author == nil {
		return out, nil
	}
	binary.LittleEndian.PutUint32(out[4:], algoECDSA)
	vouching, err := signed(out[atAuthorSignature:], key, author)
	if err != nil {
		return nil, fmt.Errorf("sign the ID key: %w", err)
	}
	copy(out[atAuthorKey:], vouching)
	return out, nil
}

// signed writes the signature of b, and returns the public key.
func signed(to, b []byte, key *ecdsa.PrivateKey) ([]byte, error) {
	digest := sha512.Sum384(b)
	der, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return nil, err
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return nil, err
	}
	putSignature(to, sig.R, sig.S)
	return PublicKey(&key.PublicKey)
}

func putSignature(to []byte, r, s *big.Int) {
	reversed(to, r.Bytes())
	reversed(to[number:], s.Bytes())
}

// reversed writes a big-endian number the other way round.
func reversed(to, b []byte) {
	b = slices.Clone(b)
	slices.Reverse(b)
	copy(to, b)
}
