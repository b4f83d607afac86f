// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package signer holds the public keys whose owners may vouch for reference
// values.
//
// The keys come from a folder of the operator, who is trusted; it is read once,
// when the broker starts. P-256, P-384 and Ed25519 are known: the curves of
// ES256, ES384 and EdDSA.
package signer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"cocoon/internal/bounded"
)

const (
	maxFile = 64 << 10
	maxKeys = 64
)

// ErrUnsigned is returned for a message without the signature that it needs.
var ErrUnsigned = errors.New("no valid signature by a configured signer")

// Key is the public key of one signer.
type Key struct {
	// Public is an *ecdsa.PublicKey or an ed25519.PublicKey.
	Public crypto.PublicKey
	// ID is the SHA-256 of the key in PKIX form, in hexadecimal.
	ID string
}

// NewKey admits the kinds of keys that signatures are checked with.
func NewKey(public crypto.PublicKey) (Key, error) {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return Key{}, fmt.Errorf("elliptic curve %s, want P-256 or P-384", k.Curve.Params().Name)
		}
	case ed25519.PublicKey:
	default:
		return Key{}, fmt.Errorf("key of type %T, want ECDSA or Ed25519", public)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return Key{}, fmt.Errorf("encode key: %w", err)
	}
	sum := sha256.Sum256(der)
	return Key{Public: public, ID: hex.EncodeToString(sum[:])}, nil
}

// Load reads the keys of dir, at least one. Every file must be named *.pem and
// hold public keys and nothing else, so that no key is left out unnoticed.
func Load(dir string) ([]Key, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read signer keys: %w", err)
	}
	var keys []Key
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if filepath.Ext(name) != ".pem" {
			return nil, fmt.Errorf("read signer keys: %q is not named *.pem", name)
		}
		more, err := loadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read signer key %q: %w", name, err)
		}
		keys = append(keys, more...)
	}
	if len(keys) == 0 || len(keys) > maxKeys {
		return nil, fmt.Errorf("read signer keys: %d keys in %q, want 1 to %d", len(keys), dir, maxKeys)
	}
	return keys, nil
}

func loadFile(name string) ([]Key, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened to read; its error says nothing
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("no regular file: %w", fs.ErrInvalid)
	}
	raw, err := bounded.ReadAll(f, maxFile)
	if err != nil {
		return nil, err
	}
	return parse(raw)
}

func parse(raw []byte) ([]Key, error) {
	var keys []Key
	for {
		block, rest := pem.Decode(raw)
		if block == nil {
			break
		}
		raw = rest
		if block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("PEM block %q, want PUBLIC KEY", block.Type)
		}
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse public key: %w", err)
		}
		k, err := NewKey(public)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 || strings.TrimSpace(string(raw)) != "" {
		return nil, errors.New("not PEM public keys alone")
	}
	return keys, nil
}
