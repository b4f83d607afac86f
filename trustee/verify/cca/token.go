// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"
)

const (
	maxToken = 64 << 10
	maxDepth = 8
	maxItems = 256

	// tagToken is that of the collection of both tokens.
	tagToken = 399

	challengeSize, personalizationSize = 64, 64
	implementationSize, instanceSize   = 32, 33
	extensible                         = 4

	// profileKey is the profile under which the key is a COSE_Key instead of a
	// bare point.
	profileKey = "tag:arm.com,2023:realm#1.0.0"
)

// token is the collection: each part is a signed message.
type token struct {
	Platform []byte `cbor:"44234,keyasint"`
	Realm    []byte `cbor:"44241,keyasint"`
}

// platform are the claims of the part that the platform signs.
type platform struct {
	Profile        string      `cbor:"265,keyasint"`
	Challenge      []byte      `cbor:"10,keyasint"`
	Implementation []byte      `cbor:"2396,keyasint"`
	Instance       []byte      `cbor:"256,keyasint"`
	Config         []byte      `cbor:"2401,keyasint"`
	Lifecycle      *uint16     `cbor:"2395,keyasint"`
	Components     []component `cbor:"2399,keyasint"`
	Service        string      `cbor:"2400,keyasint,omitempty"`
	Hash           string      `cbor:"2402,keyasint"`
}

// component is a piece of the platform's firmware.
type component struct {
	Type    string `cbor:"1,keyasint,omitempty"`
	Value   []byte `cbor:"2,keyasint"`
	Version string `cbor:"4,keyasint,omitempty"`
	Signer  []byte `cbor:"5,keyasint"`
	Hash    string `cbor:"6,keyasint,omitempty"`
}

// realm are the claims of the part that the Realm Management Monitor signs.
type realm struct {
	Profile         string   `cbor:"265,keyasint,omitempty"`
	Challenge       []byte   `cbor:"10,keyasint"`
	Personalization []byte   `cbor:"44235,keyasint"`
	Hash            string   `cbor:"44236,keyasint"`
	Key             []byte   `cbor:"44237,keyasint"`
	Initial         []byte   `cbor:"44238,keyasint"`
	Extensible      [][]byte `cbor:"44239,keyasint"`
	KeyHash         string   `cbor:"44240,keyasint"`
}

// decMode reads CBOR of strangers: bounded, and with one reading only.
func decMode() (cbor.DecMode, error) {
	return cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, UTF8: cbor.UTF8RejectInvalid,
		MaxNestedLevels: maxDepth, MaxArrayElements: maxItems, MaxMapPairs: maxItems,
	}.DecMode()
}

// parse takes the two parts out of the collection.
func parse(raw []byte) (*token, error) {
	if len(raw) > maxToken {
		return nil, fmt.Errorf("token of %d bytes, at most %d", len(raw), maxToken)
	}
	mode, err := decMode()
	if err != nil {
		return nil, err
	}
	var tag cbor.RawTag
	if err := mode.Unmarshal(raw, &tag); err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	if tag.Number != tagToken {
		return nil, fmt.Errorf("token with tag %d, not %d", tag.Number, tagToken)
	}
	var t token
	if err := mode.Unmarshal(tag.Content, &t); err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	if len(t.Platform) == 0 || len(t.Realm) == 0 {
		return nil, errors.New("the token lacks one of its parts")
	}
	return &t, nil
}

// message is a signed part whose signature is not checked yet.
type message struct{ cose.Sign1Message }

// open reads a part and the claims in it, which nobody may believe before
// check accepted the signature.
func open(raw []byte, claims any) (*message, error) {
	mode, err := decMode()
	if err != nil {
		return nil, err
	}
	var m message
	if err := m.UnmarshalCBOR(raw); err != nil {
		return nil, err
	}
	if len(m.Headers.Unprotected) > 0 {
		return nil, errors.New("it has headers that nothing protects")
	}
	if _, ok := m.Headers.Protected[cose.HeaderLabelCritical]; ok {
		return nil, errors.New("it has critical headers, and none is known")
	}
	if err := mode.Unmarshal(m.Payload, claims); err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	return &m, nil
}

// check verifies the signature. The algorithm is that of the key's curve, and
// not what the message likes.
func (m *message) check(key *ecdsa.PublicKey) error {
	alg, ok := map[elliptic.Curve]cose.Algorithm{
		elliptic.P256(): cose.AlgorithmES256, elliptic.P384(): cose.AlgorithmES384, elliptic.P521(): cose.AlgorithmES512,
	}[key.Curve]
	if !ok {
		return fmt.Errorf("no algorithm for a key on %s", key.Curve.Params().Name)
	}
	v, err := cose.NewVerifier(alg, key)
	if err != nil {
		return err
	}
	return m.Verify(nil, v)
}

// attestationKey returns the realm's key, RAK.
func (r *realm) attestationKey() (*ecdsa.PublicKey, error) {
	if r.Profile == "" {
		return ecdsa.ParseUncompressedPublicKey(elliptic.P384(), r.Key)
	}
	if r.Profile != profileKey {
		return nil, fmt.Errorf("profile %.80q of the realm is not known", r.Profile)
	}
	var k cose.Key
	if err := k.UnmarshalCBOR(r.Key); err != nil {
		return nil, err
	}
	pub, err := k.PublicKey()
	if err != nil {
		return nil, err
	}
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("it is not on an elliptic curve")
	}
	return key, nil
}

// sum hashes by an algorithm of the token.
func sum(algorithm string, b []byte) ([]byte, error) {
	switch algorithm {
	case "sha-256":
		d := sha256.Sum256(b)
		return d[:], nil
	case "sha-384":
		d := sha512.Sum384(b)
		return d[:], nil
	case "sha-512":
		d := sha512.Sum512(b)
		return d[:], nil
	}
	return nil, fmt.Errorf("hash algorithm %.40q is not known", algorithm)
}

// complete checks that what a part has to have is there, in its size.
func (p *platform) complete() error {
	switch {
	case len(p.Implementation) != implementationSize:
		return fmt.Errorf("implementation id of %d bytes, not %d", len(p.Implementation), implementationSize)
	case len(p.Instance) != instanceSize || p.Instance[0] != 1:
		return fmt.Errorf("instance id %x is not 01 and 32 bytes", p.Instance[:min(len(p.Instance), instanceSize)])
	case p.Lifecycle == nil:
		return errors.New("no lifecycle state")
	case len(p.Components) == 0:
		return errors.New("no component of firmware")
	}
	return nil
}

func (r *realm) complete() error {
	switch {
	case len(r.Challenge) != challengeSize || len(r.Personalization) != personalizationSize:
		return fmt.Errorf("challenge of %d and personalization of %d bytes, not %d", len(r.Challenge), len(r.Personalization), challengeSize)
	case len(r.Extensible) != extensible:
		return fmt.Errorf("%d extensible measurements, not %d", len(r.Extensible), extensible)
	}
	for _, m := range append([][]byte{r.Initial}, r.Extensible...) {
		if s := len(m); s != sha256.Size && s != sha512.Size384 && s != sha512.Size {
			return fmt.Errorf("measurement of %d bytes", s)
		}
	}
	return nil
}

// secured tells whether the platform's state is one in which nobody debugs it:
// 0x30 and any low byte. 0x40 is debugging that does not reach CCA's own
// firmware, but the rest of the machine.
func (p *platform) secured() bool { return *p.Lifecycle>>8 == 0x30 }

// vouchesFor tells whether the platform's challenge is the digest of the
// realm's key: by that one signs the other.
func (p *platform) vouchesFor(r *realm) error {
	digest, err := sum(r.KeyHash, r.Key)
	if err != nil {
		return err
	}
	if !bytes.Equal(digest, p.Challenge) {
		return errors.New("the platform's challenge is not the digest of the realm's key")
	}
	return nil
}
