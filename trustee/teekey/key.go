// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package teekey handles the public key of a guest's TEE.
//
// The guest sends the key as a JWK inside the runtime data that its evidence
// is bound to; a secret leaves the broker only encrypted to that key. Until
// the evidence is verified anybody may have sent it, so every member is
// checked here. The members are exactly those that the upstream broker knows:
// both sides hash the key after re-encoding it.
package teekey

import (
	"crypto/ecdh"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
)

// The key management algorithms of a TEE key.
const (
	algECDH = "ECDH-ES+A256KW"
	algRSA  = "RSA-OAEP-256"
)

const (
	minRSABits  = 2048
	maxRSABits  = 4096
	maxExponent = 1<<31 - 1
)

// ErrBadKey is returned for a JWK that no secret can be encrypted to.
var ErrBadKey = errors.New("invalid TEE public key")

// Key is a parsed TEE public key: P-256 or P-521 for ECDH-ES+A256KW, or RSA of
// 2048 to 4096 bits for RSA-OAEP-256.
type Key struct {
	members jwk
	curve   string
	ec      *ecdh.PublicKey
	rsa     *rsa.PublicKey
}

type jwk struct {
	Kty string `json:"kty"`
	Crv string `json:"crv,omitempty"`
	Alg string `json:"alg"`
	X   string `json:"x,omitempty"`
	Y   string `json:"y,omitempty"`
	N   string `json:"n,omitempty"`
	E   string `json:"e,omitempty"`
}

// Parse checks raw, a JWK. Unknown members are dropped, as the upstream
// broker does.
func Parse(raw []byte) (*Key, error) {
	var j jwk
	if err := json.Unmarshal(raw, &j); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadKey, err)
	}
	switch j.Kty {
	case "EC":
		return parseEC(j)
	case "RSA":
		return parseRSA(j)
	}
	return nil, fmt.Errorf("kty %q, want EC or RSA: %w", j.Kty, ErrBadKey)
}

// Members returns the JWK with exactly its known members, for hashing and for
// the token.
func (k *Key) Members() map[string]any {
	m := map[string]any{"kty": k.members.Kty, "alg": k.members.Alg}
	if k.ec != nil {
		m["crv"], m["x"], m["y"] = k.members.Crv, k.members.X, k.members.Y
		return m
	}
	m["n"], m["e"] = k.members.N, k.members.E
	return m
}

func curveOf(name string) (ecdh.Curve, int, error) {
	switch name {
	case "P-256":
		return ecdh.P256(), 32, nil
	case "P-521":
		return ecdh.P521(), 66, nil
	}
	return nil, 0, fmt.Errorf("crv %q, want P-256 or P-521: %w", name, ErrBadKey)
}

func parseEC(j jwk) (*Key, error) {
	if j.Alg != algECDH {
		return nil, fmt.Errorf("alg %q, want %q: %w", j.Alg, algECDH, ErrBadKey)
	}
	curve, size, err := curveOf(j.Crv)
	if err != nil {
		return nil, err
	}
	point := []byte{4}
	for _, c := range []string{j.X, j.Y} {
		b, err := base64.RawURLEncoding.Strict().DecodeString(c)
		if err != nil || len(b) != size {
			return nil, fmt.Errorf("coordinate is not base64url of %d bytes: %w", size, ErrBadKey)
		}
		point = append(point, b...)
	}
	pub, err := curve.NewPublicKey(point)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadKey, err)
	}
	j.N, j.E = "", ""
	return &Key{members: j, curve: j.Crv, ec: pub}, nil
}

func parseRSA(j jwk) (*Key, error) {
	if j.Alg != algRSA {
		return nil, fmt.Errorf("alg %q, want %q: %w", j.Alg, algRSA, ErrBadKey)
	}
	n, err := base64.RawURLEncoding.Strict().DecodeString(j.N)
	if err != nil || len(n) > maxRSABits/8 {
		return nil, fmt.Errorf("n is not base64url of at most %d bytes: %w", maxRSABits/8, ErrBadKey)
	}
	e, err := base64.RawURLEncoding.Strict().DecodeString(j.E)
	if err != nil || len(e) > 4 {
		return nil, fmt.Errorf("e is not base64url of at most 4 bytes: %w", ErrBadKey)
	}
	pub := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	if pub.N.BitLen() < minRSABits || pub.N.Bit(0) == 0 {
		return nil, fmt.Errorf("modulus of %d bits, want an odd one of %d or more: %w", pub.N.BitLen(), minRSABits, ErrBadKey)
	}
	if pub.E < 3 || pub.E > maxExponent || pub.E%2 == 0 {
		return nil, fmt.Errorf("exponent %d: %w", pub.E, ErrBadKey)
	}
	j.Crv, j.X, j.Y = "", "", ""
	return &Key{members: j, rsa: pub}, nil
}
