// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package signer

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
)

// Verifies tells whether sig is k's signature over message, in the form that
// DSSE carries: for ECDSA over the hash of the curve's size, in ASN.1.
func (k Key) Verifies(message, sig []byte) bool {
	switch public := k.Public.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(public, message, sig)
	case *ecdsa.PublicKey:
		if public.Curve == elliptic.P384() {
			sum := sha512.Sum384(message)
			return ecdsa.VerifyASN1(public, sum[:], sig)
		}
		sum := sha256.Sum256(message)
		return ecdsa.VerifyASN1(public, sum[:], sig)
	}
	return false
}
