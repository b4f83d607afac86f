// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package se

import (
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
)

// errForeign is returned for a key that this verifier did not make, or made for
// host keys that are not the ones trusted now.
var errForeign = errors.New("the key of the measurement is not from a request of this broker to the host keys that it trusts now")

// sealer lets guests carry the secret of their request, so that nothing has to
// be kept for each. The key of the seal lives as long as the process: sessions
// do not live longer. Secrets do not live longer than the trust in the host keys
// that can read them: they are sealed together with a digest of these.
type sealer struct{ aead cipher.AEAD }

func newSealer() (sealer, error) {
	var key [32]byte
	if _, err := rand.Read(key[:]); err != nil {
		return sealer{}, fmt.Errorf("make a key: %w", err)
	}
	aead, err := newGCM(key[:])
	return sealer{aead}, err
}

// seal returns the two parts for the guest, of a request to hosts. The second
// goes with this first one only.
func (s sealer) seal(x *secret, hosts [32]byte) (key, nonce []byte, err error) {
	if key, err = s.one(x.key[:], hosts[:]); err != nil {
		return nil, nil, err
	}
	first := sha256.Sum256(key)
	nonce, err = s.one(x.nonce[:], first[:])
	return key, nonce, err
}

func (s sealer) one(b, with []byte) ([]byte, error) {
	iv := make([]byte, gcmIV)
	if _, err := rand.Read(iv); err != nil {
		return nil, fmt.Errorf("make a nonce: %w", err)
	}
	return s.aead.Seal(iv, iv, b, with), nil
}

// open is the reverse of seal.
func (s sealer) open(key, nonce []byte, hosts [32]byte) (*secret, error) {
	const overhead = gcmIV + gcmTag
	if len(key) != measurementKey+overhead || len(nonce) != nonceSize+overhead {
		return nil, errForeign
	}
	k, err := s.aead.Open(nil, key[:gcmIV], key[gcmIV:], hosts[:])
	if err != nil {
		return nil, errForeign
	}
	first := sha256.Sum256(key)
	n, err := s.aead.Open(nil, nonce[:gcmIV], nonce[gcmIV:], first[:])
	if err != nil {
		return nil, errForeign
	}
	return &secret{key: [measurementKey]byte(k), nonce: [nonceSize]byte(n)}, nil
}
