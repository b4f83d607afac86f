// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package admin is how the operator of the broker proves who he is, and the
// client of the administration calls.
//
// An administration call carries a JWT signed with the operator's Ed25519 key.
// The broker knows only the public half. There is no anonymous administration.
package admin

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	role     = "admin"
	leeway   = time.Minute
	maxToken = 16 << 10
)

// ErrDenied is returned for a call that is not the operator's.
var ErrDenied = errors.New("admin token refused")

type claims struct {
	Issuer    string   `json:"iss,omitempty"`
	IssuedAt  *float64 `json:"iat,omitempty"`
	NotBefore *float64 `json:"nbf,omitempty"`
	Expires   *float64 `json:"exp,omitempty"`
	Role      string   `json:"role,omitempty"`
}

// NewToken returns a JWT that authorises administration calls for life, from
// now on.
func NewToken(key ed25519.PrivateKey, now time.Time, life time.Duration) (string, error) {
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", fmt.Errorf("make admin token signer: %w", err)
	}
	iat, exp := float64(now.Unix()), float64(now.Add(life).Unix())
	payload, err := json.Marshal(claims{Issuer: "cocoon-trustee", IssuedAt: &iat, NotBefore: &iat, Expires: &exp, Role: role})
	if err != nil {
		return "", fmt.Errorf("encode admin token: %w", err)
	}
	jws, err := s.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign admin token: %w", err)
	}
	return jws.CompactSerialize()
}

// Authorize admits the operator by the Authorization header of a call.
func Authorize(key ed25519.PublicKey, header string, now time.Time) error {
	token, ok := Bearer(header)
	if !ok {
		return fmt.Errorf("administration needs a bearer token signed with the admin key: %w", ErrDenied)
	}
	return Verify(key, token, now)
}

// Bearer returns the token in an Authorization header.
func Bearer(header string) (string, bool) {
	scheme, token, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", false
	}
	return token, true
}

// Verify checks a JWT against the operator's key. A token without a role is
// accepted, since the key encrypting tools of the field send none: whoever
// holds the key is the operator. A token with a lesser role is not.
func Verify(key ed25519.PublicKey, token string, now time.Time) error {
	if len(token) > maxToken {
		return fmt.Errorf("%d bytes: %w", len(token), ErrDenied)
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDenied, err)
	}
	payload, err := jws.Verify(key)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDenied, err)
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return fmt.Errorf("%w: claims: %w", ErrDenied, err)
	}
	return c.check(now)
}

func (c claims) check(now time.Time) error {
	switch {
	case c.Expires == nil:
		return fmt.Errorf("claim exp is missing: %w", ErrDenied)
	case float64(now.Add(-leeway).Unix()) >= *c.Expires:
		return fmt.Errorf("expired: %w", ErrDenied)
	case c.NotBefore != nil && float64(now.Add(leeway).Unix()) < *c.NotBefore:
		return fmt.Errorf("not yet valid: %w", ErrDenied)
	case c.Role != "" && c.Role != role:
		return fmt.Errorf("role %q, want %q: %w", c.Role, role, ErrDenied)
	}
	return nil
}

// ParsePrivateKey reads an Ed25519 key in PKCS#8 PEM.
func ParsePrivateKey(raw []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, errors.New("admin key is no PEM")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("admin key is no PKCS#8") // the cause could quote the key
	}
	priv, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("admin key is not Ed25519")
	}
	return priv, nil
}

// ParsePublicKey reads an Ed25519 key in PKIX PEM.
func ParsePublicKey(raw []byte) (ed25519.PublicKey, error) {
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, errors.New("admin public key is no PEM")
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse admin public key: %w", err)
	}
	pub, ok := k.(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("admin public key is not Ed25519")
	}
	return pub, nil
}
