// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cca makes the evidence of Arm CCA realms: the token of the Realm
// Management Monitor, in the JSON of the attestation agent of Confidential
// Containers. The token is that of draft-ffm-rats-cca-token.
//
// Trust: the kernel is the realm's own and the token is signed. What is looked
// at here only finds mistakes early; nothing of a token holds before a verifier
// accepted it.
package cca

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"cocoon/attest/tee/tsm"
)

// DataSize is the size of a challenge, in bytes.
const DataSize = 64

// provider is the name of the kernel's driver.
const provider = "arm_cca_guest"

// ErrToken is returned for what is no CCA token, or one about something else.
var ErrToken = errors.New("no CCA token about this request")

// Attester makes the evidence of a realm. It is safe for concurrent use.
type Attester struct{ tokens tsm.Reporter }

// New returns an attester on this machine.
func New() *Attester { return &Attester{tokens: tsm.Reporter{Dir: tsm.Dir}} }

// TEE returns "cca".
func (a *Attester) TEE() string { return "cca" }

// Evidence returns a token about reportData, of at most 64 bytes, which are
// padded with zeros.
func (a *Attester) Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error) {
	if len(reportData) > DataSize {
		return nil, fmt.Errorf("CCA challenge of %d bytes, at most %d", len(reportData), DataSize)
	}
	var data [DataSize]byte
	copy(data[:], reportData)
	r, err := a.tokens.Get(ctx, provider, data[:])
	if err != nil {
		return nil, fmt.Errorf("get a CCA token: %w", err)
	}
	if err := about(r.Out, data); err != nil {
		return nil, err
	}
	return json.Marshal(Evidence{Token: r.Out})
}

// about looks for the challenge in the form in which the realm's claims have
// it. The guest needs no more than that to notice another's token, and so has
// no reader of CBOR.
func about(token []byte, data [DataSize]byte) error {
	if !bytes.HasPrefix(token, []byte{0xd9, 0x01, 0x8f}) {
		return fmt.Errorf("%w: %d bytes without its CBOR tag, 399", ErrToken, len(token))
	}
	// Label 10 and the head of a string of 64 bytes.
	if !bytes.Contains(token, append([]byte{0x0a, 0x58, DataSize}, data[:]...)) {
		return fmt.Errorf("%w: its challenge is another", ErrToken)
	}
	return nil
}
