// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package seal parses and verifies sealed secrets.
//
// A sealed secret is "sealed." and a compact JWS whose payload says where the
// secret is to be had. It travels in environment variables and files that the
// host delivers, so the host may replace it at will; the signature ties it to
// whoever owns the verification key. Everything here is pure.
package seal

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"cocoon/internal/bounded"
)

// Prefix marks a sealed secret.
const Prefix = "sealed."

// MaxSecret is the most bytes of a sealed secret.
const MaxSecret = 256 << 10

const version = "0.1.0"

// Errors that callers tell apart.
var (
	// ErrFormat is returned for a string that is not a sealed secret.
	ErrFormat = errors.New("malformed sealed secret")
	// ErrSignature is returned when the signature is missing or wrong.
	ErrSignature = errors.New("sealed secret's signature does not verify")
	// ErrKey is returned for a verification key that is not a P-256 JWK.
	ErrKey = errors.New("not a P-256 public key")
)

// Header is the protected header of the signature.
type Header struct {
	Algorithm string          `json:"alg"`
	KeyID     string          `json:"kid"`
	Critical  json.RawMessage `json:"crit"`
}

// Payload says where the secret is. Name is set for the type vault only.
type Payload struct {
	Version  string `json:"version"`
	Type     string `json:"type"`     // vault or envelope
	Provider string `json:"provider"` // in lower case
	Name     string `json:"name"`

	ProviderSettings map[string]any `json:"provider_settings"`
	Annotations      map[string]any `json:"annotations"`
}

// Secret is a sealed secret taken apart.
type Secret struct {
	header, payload, signature string // base64url
}

// Split takes a sealed secret apart at its dots, without looking inside. White
// space at the end is ignored, since files end in a line feed.
func Split(secret []byte) (*Secret, error) {
	if len(secret) > MaxSecret {
		return nil, fmt.Errorf("%w: %d bytes: %w", ErrFormat, len(secret), bounded.ErrTooLarge)
	}
	text, ok := strings.CutPrefix(strings.TrimRight(string(secret), " \t\r\n"), Prefix)
	parts := strings.Split(text, ".")
	if !ok || len(parts) != 3 {
		return nil, fmt.Errorf("%w: not four parts that begin with %q", ErrFormat, Prefix)
	}
	return &Secret{header: parts[0], payload: parts[1], signature: parts[2]}, nil
}

// Header returns the protected header of s. Only ES256 is accepted.
func (s *Secret) Header() (*Header, error) {
	var h Header
	if err := decode(s.header, &h); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if h.Algorithm != "ES256" || h.Critical != nil {
		return nil, fmt.Errorf("header: algorithm %.20q is not plain ES256: %w", h.Algorithm, ErrSignature)
	}
	if h.KeyID == "" {
		return nil, fmt.Errorf("header: no kid: %w", ErrSignature)
	}
	return &h, nil
}

// Verify checks the signature of s with key.
func (s *Secret) Verify(key *ecdsa.PublicKey) error {
	sig, err := encoding().DecodeString(s.signature)
	if err != nil || len(sig) != 64 {
		return ErrSignature
	}
	sum := sha256.Sum256([]byte(s.header + "." + s.payload))
	if !ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		return ErrSignature
	}
	return nil
}

// Payload returns what s says. It is to be believed only after Verify.
func (s *Secret) Payload() (*Payload, error) {
	var p Payload
	if err := decode(s.payload, &p); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	p.Provider = strings.ToLower(p.Provider)
	if p.Version != version {
		return nil, fmt.Errorf("%w: version %.60q", ErrFormat, p.Version)
	}
	switch {
	case p.Type != "vault" && p.Type != "envelope":
		return nil, fmt.Errorf("%w: type %.60q", ErrFormat, p.Type)
	case p.Type == "vault" && p.Name == "":
		return nil, fmt.Errorf("%w: vault secret without a name", ErrFormat)
	}
	return &p, nil
}

// ParseKey reads a P-256 public key in JWK form. A private part is ignored.
func ParseKey(jwk []byte) (*ecdsa.PublicKey, error) {
	var k struct {
		Type  string `json:"kty"`
		Curve string `json:"crv"`
		X     string `json:"x"`
		Y     string `json:"y"`
	}
	if len(jwk) > 16<<10 || json.Unmarshal(jwk, &k) != nil || k.Type != "EC" || k.Curve != "P-256" {
		return nil, ErrKey
	}
	x, xerr := encoding().DecodeString(k.X)
	y, yerr := encoding().DecodeString(k.Y)
	if xerr != nil || yerr != nil || len(x) != 32 || len(y) != 32 {
		return nil, ErrKey
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), bytes.Join([][]byte{{4}, x, y}, nil))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return key, nil
}

func encoding() *base64.Encoding { return base64.RawURLEncoding.Strict() }

func decode(text string, v any) error {
	b, err := encoding().DecodeString(text)
	if err != nil {
		return fmt.Errorf("%w: not base64url", ErrFormat)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: not the expected JSON", ErrFormat)
	}
	return nil
}
