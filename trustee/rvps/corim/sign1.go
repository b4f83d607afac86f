// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package corim

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"

	"cocoon/trustee/rvps/signer"
)

// The protected headers of a signed manifest.
const (
	headerMeta   = 8
	headerClaims = 15
)

// contentTypes are those of a signed manifest in the present draft and in
// earlier ones. They keep a signature over something else from counting here.
func contentTypes() []string {
	return []string{"application/rim+cbor", "application/corim-unsigned+cbor"}
}

// open checks the signature over raw and returns what was signed.
func (p *parser) open(raw []byte, keys []signer.Key) ([]byte, error) {
	var m cose.Sign1Message
	if err := m.UnmarshalCBOR(raw); err != nil {
		return nil, fmt.Errorf("COSE: %w: %w", ErrBadManifest, err)
	}
	alg, err := m.Headers.Protected.Algorithm()
	if err != nil {
		return nil, fmt.Errorf("algorithm: %w: %w", ErrBadManifest, err)
	}
	key, ok := verify(&m, alg, keys)
	if !ok {
		return nil, fmt.Errorf("COSE signature of algorithm %s: %w", alg, signer.ErrUnsigned)
	}
	p.out.Signer = &key
	if err := p.headers(m.Headers.Protected); err != nil {
		return nil, fmt.Errorf("protected header: %w: %w", ErrBadManifest, err)
	}
	return m.Payload, nil
}

// verify tries every key of the algorithm: a key identifier in the message is
// the word of a stranger.
func verify(m *cose.Sign1Message, alg cose.Algorithm, keys []signer.Key) (signer.Key, bool) {
	for _, k := range keys {
		if algorithm(k) != alg {
			continue
		}
		v, err := cose.NewVerifier(alg, k.Public)
		if err != nil {
			continue // as for any other key that does not fit
		}
		if m.Verify(nil, v) == nil {
			return k, true
		}
	}
	return signer.Key{}, false
}

// algorithm is the only one that a key is used with.
func algorithm(k signer.Key) cose.Algorithm {
	switch public := k.Public.(type) {
	case ed25519.PublicKey:
		return cose.AlgorithmEdDSA
	case *ecdsa.PublicKey:
		if public.Curve == elliptic.P384() {
			return cose.AlgorithmES384
		}
		return cose.AlgorithmES256
	}
	return cose.AlgorithmReserved
}

type metaMap struct {
	Validity *validity `cbor:"1,keyasint,omitempty"`
}

type claimsMap struct {
	Expires   *int64 `cbor:"4,keyasint,omitempty"`
	NotBefore *int64 `cbor:"5,keyasint,omitempty"`
}

func (p *parser) headers(h cose.ProtectedHeader) error {
	if _, ok := h[cose.HeaderLabelCritical]; ok {
		return errors.New("critical headers are not known here")
	}
	kind, ok := h[cose.HeaderLabelContentType].(string)
	if known := contentTypes(); !ok || kind != known[0] && kind != known[1] {
		return fmt.Errorf("content type %v, want %q", h[cose.HeaderLabelContentType], known[0])
	}
	if err := p.meta(h); err != nil {
		return fmt.Errorf("meta: %w", err)
	}
	if err := p.claims(h); err != nil {
		return fmt.Errorf("claims: %w", err)
	}
	return nil
}

func (p *parser) meta(h cose.ProtectedHeader) error {
	v, ok := h[int64(headerMeta)]
	if !ok {
		return nil
	}
	raw, ok := v.([]byte)
	if !ok {
		return fmt.Errorf("%T, want a byte string", v)
	}
	var m metaMap
	if err := p.mode.Unmarshal(raw, &m); err != nil {
		return err
	}
	return p.restrict(m.Validity)
}

func (p *parser) claims(h cose.ProtectedHeader) error {
	v, ok := h[int64(headerClaims)]
	if !ok {
		return nil
	}
	// The header was decoded to Go values; encoded again it fits the struct.
	raw, err := cbor.Marshal(v)
	if err != nil {
		return err
	}
	var c claimsMap
	if err := p.mode.Unmarshal(raw, &c); err != nil {
		return err
	}
	if c.Expires != nil {
		p.until(time.Unix(*c.Expires, 0))
	}
	if c.NotBefore != nil {
		p.from(time.Unix(*c.NotBefore, 0))
	}
	return nil
}
