// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package imagetest

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"fmt"
)

// Keys unwraps layer keys with key encryption keys by their name.
type Keys map[string][]byte

// UnwrapKey opens an annotation packet as a key broker's client does.
func (k Keys) UnwrapKey(_ context.Context, annotation []byte) ([]byte, error) {
	var p packet
	if err := json.Unmarshal(annotation, &p); err != nil {
		return nil, fmt.Errorf("parse annotation packet: %w", err)
	}
	kek, ok := k[p.KID]
	if !ok {
		return nil, fmt.Errorf("no key %q", p.KID)
	}
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return aead.Open(nil, p.IV, p.Wrapped, nil)
}
