// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package se

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
)

const (
	measurementKey = 64
	nonceSize      = 16
	gcmTag         = 16
	gcmIV          = 12

	// The block of a request: a header, what is authenticated, one slot for each
	// host key, and the encrypted part.
	requestHeader = 48
	requestFlags  = 16
	customerKey   = 160
	keySlot       = 80
	requestSecret = measurementKey + nonceSize

	requestVersion = 0x100
	hmacSHA512     = 1
	// wantedFlags ask for a nonce and for the digests of the host keys that
	// opened the image and the request.
	wantedFlags = 0x7 << 60

	maxHostKeys = 255
	coordinate  = 80
	pointSize   = 1 + 2*66 // of P-521, uncompressed
)

// secret is what a request tells the ultravisor and nobody else.
type secret struct {
	key   [measurementKey]byte
	nonce [nonceSize]byte
}

// random are the inputs of a request that are made for it.
type random struct {
	secret   secret
	iv       [gcmIV]byte
	protect  [32]byte
	customer *ecdh.PrivateKey
}

func newRandom(from io.Reader) (*random, error) {
	var r random
	for _, b := range [][]byte{r.secret.key[:], r.secret.nonce[:], r.iv[:], r.protect[:]} {
		if _, err := io.ReadFull(from, b); err != nil {
			return nil, fmt.Errorf("make a request: %w", err)
		}
	}
	var err error
	if r.customer, err = ecdh.P521().GenerateKey(rand.Reader); err != nil {
		return nil, fmt.Errorf("make a request: %w", err)
	}
	return &r, nil
}

// block makes an attestation request control block that the ultravisors with
// these host keys can open. The layout is that of s390-tools (rust/pv).
func (r *random) block(hosts []*ecdh.PublicKey) ([]byte, error) {
	if len(hosts) == 0 || len(hosts) > maxHostKeys {
		return nil, fmt.Errorf("%d host keys, want 1 to %d", len(hosts), maxHostKeys)
	}
	size := requestHeader + requestFlags + customerKey + keySlot*len(hosts) + requestSecret + gcmTag
	b := make([]byte, requestHeader, size)
	binary.BigEndian.PutUint32(b[8:], requestVersion)
	binary.BigEndian.PutUint32(b[12:], uint32(size))
	copy(b[16:], r.iv[:])
	b[39] = byte(len(hosts))
	binary.BigEndian.PutUint32(b[44:], requestSecret)
	b = binary.BigEndian.AppendUint64(b, wantedFlags)
	b = binary.BigEndian.AppendUint32(b, hmacSHA512)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = append(b, coordinates(r.customer.PublicKey())...)
	for _, h := range hosts {
		slot, err := r.slot(h)
		if err != nil {
			return nil, err
		}
		b = append(b, slot...)
	}
	sealer, err := newGCM(r.protect[:])
	if err != nil {
		return nil, err
	}
	return sealer.Seal(b, r.iv[:], append(r.secret.key[:], r.secret.nonce[:]...), b), nil
}

// slot wraps the key of the block for one host.
func (r *random) slot(host *ecdh.PublicKey) ([]byte, error) {
	shared, err := r.customer.ECDH(host)
	if err != nil {
		return nil, fmt.Errorf("agree on a key with a host: %w", err)
	}
	wrapping := wrappingKey(shared)
	sealer, err := newGCM(wrapping[:])
	if err != nil {
		return nil, err
	}
	name := hostKeyHash(host)
	return sealer.Seal(name[:], make([]byte, gcmIV), r.protect[:], nil), nil
}

// wrappingKey derives the key of a slot from what both sides share.
func wrappingKey(shared []byte) [32]byte {
	return sha256.Sum256(append(append([]byte(nil), shared...), 0, 0, 0, 1))
}

// hostKeyHash is by what the ultravisor knows a host key.
func hostKeyHash(k *ecdh.PublicKey) [32]byte { return sha256.Sum256(coordinates(k)) }

// coordinates returns those of a point, each padded to 80 bytes.
func coordinates(k *ecdh.PublicKey) []byte {
	point := k.Bytes()[1:]
	half := len(point) / 2
	out := make([]byte, 2*coordinate)
	copy(out[coordinate-half:], point[:half])
	copy(out[2*coordinate-half:], point[half:])
	return out
}

func newGCM(key []byte) (cipher.AEAD, error) {
	c, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(c)
}
