// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"cocoon/internal/bounded"
)

// maxKey bounds a private key in PEM, in bytes.
const maxKey = 64 << 10

// privateKey reads a key for ECDSA, in PEM as PKCS #8 or as SEC 1 has it. Errors
// say nothing of the content.
func privateKey(file string) (*ecdsa.PrivateKey, error) {
	raw, err := bounded.ReadFile(file, maxKey)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	for {
		var block *pem.Block
		if block, raw = pem.Decode(raw); block == nil {
			return nil, fmt.Errorf("%w: %q has no private key for ECDSA in PEM", errFlags, file)
		}
		switch block.Type { // parameters of the curve may come first
		case "EC PRIVATE KEY":
			if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
				return key, nil
			}
		case "PRIVATE KEY":
			if any, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
				if key, ok := any.(*ecdsa.PrivateKey); ok {
					return key, nil
				}
			}
		}
	}
}
