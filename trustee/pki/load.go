// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Token is the key that signs attestation tokens with its certificates, leaf
// first.
type Token struct {
	Key   *ecdsa.PrivateKey
	Chain []*x509.Certificate
}

// LoadToken reads the token key of the broker's folder.
func LoadToken(dir string) (*Token, error) {
	raw, err := os.ReadFile(filepath.Join(dir, TokenKey))
	if err != nil {
		return nil, fmt.Errorf("read token key: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("%q is no PEM", TokenKey)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%q is no PKCS#8", TokenKey) // the cause could quote the key
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%q is no ECDSA key", TokenKey)
	}
	raw, err = os.ReadFile(filepath.Join(dir, TokenCert))
	if err != nil {
		return nil, fmt.Errorf("read token certificate: %w", err)
	}
	chain, err := ParseCerts(raw)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", TokenCert, err)
	}
	return &Token{Key: key, Chain: chain}, nil
}

// ParseCerts reads PEM certificates, at least one.
func ParseCerts(raw []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		block, raw = pem.Decode(raw)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %q, want CERTIFICATE", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse certificate: %w", err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("no PEM certificate")
	}
	return certs, nil
}
