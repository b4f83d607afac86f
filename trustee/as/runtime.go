// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package as

import (
	"crypto/sha512"
	"encoding/json"
	"fmt"

	"github.com/gowebpki/jcs"

	"cocoon/trustee/teekey"
)

// Runtime is what the evidence of a guest is bound to.
type Runtime struct {
	// Nonce is the challenge, verbatim.
	Nonce string
	// Key is the public key that secrets will be encrypted to.
	Key *teekey.Key
	// Additional is the text of the evidence of further devices, empty if none.
	Additional string
}

// claims returns the structure that the primary evidence covers.
func (r Runtime) claims() map[string]any {
	m := r.deviceClaims()
	m["additional-evidence"] = r.Additional
	return m
}

// deviceClaims returns the structure that the evidence of devices covers.
func (r Runtime) deviceClaims() map[string]any {
	return map[string]any{"nonce": r.Nonce, "tee-pubkey": r.Key.Members()}
}

// teeSE is IBM Secure Execution, the one TEE whose evidence is over another
// digest than that of the others.
const teeSE = "se"

// digest is over the canonical JSON of claims: SHA-512 for IBM Secure Execution
// and SHA-384 for every other TEE, whatever the guest would like.
func digest(tee string, claims map[string]any) ([]byte, error) {
	text, err := canonical(claims)
	if err != nil {
		return nil, err
	}
	if tee == teeSE {
		d := sha512.Sum512(text)
		return d[:], nil
	}
	d := sha512.Sum384(text)
	return d[:], nil
}

// canonical is the JSON of claims as RFC 8785 has it.
func canonical(claims map[string]any) ([]byte, error) {
	raw, err := json.Marshal(claims)
	if err != nil {
		return nil, fmt.Errorf("encode runtime data: %w", err)
	}
	text, err := jcs.Transform(raw)
	if err != nil {
		return nil, fmt.Errorf("canonicalise runtime data: %w", err)
	}
	return text, nil
}
