// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/gowebpki/jcs"
)

// jwk is the TEE public key. The broker parses it into these members and
// serialises it again before it hashes, so no other member may be added.
type jwk struct {
	Kty string `json:"kty"`
	Alg string `json:"alg"`
	Crv string `json:"crv,omitempty"`
	X   string `json:"x,omitempty"`
	Y   string `json:"y,omitempty"`
	N   string `json:"n,omitempty"`
	E   string `json:"e,omitempty"`
}

// runtimeData is what device evidence covers.
type runtimeData struct {
	Nonce  string `json:"nonce"`
	PubKey jwk    `json:"tee-pubkey"`
}

// boundData is what the TEE's evidence covers: the runtime data and the text of
// the device evidence, which is a JSON string and present even if empty.
type boundData struct {
	Additional string `json:"additional-evidence"`
	runtimeData
}

// canonicalDigest hashes the canonical form of v (RFC 8785).
func canonicalDigest(h hashAlgorithm, v any) ([]byte, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode runtime data: %w", err)
	}
	canonical, err := jcs.Transform(plain)
	if err != nil {
		return nil, fmt.Errorf("canonicalize runtime data: %w", err)
	}
	d := h.hash.New()
	d.Write(canonical)
	return d.Sum(nil), nil
}

// primaryInput returns what the TEE's attester is given: the digest, or on IBM
// Secure Execution the broker's request (its nonce) with the digest inside.
func primaryInput(tee string, ch challenge, b boundData) ([]byte, error) {
	digest, err := canonicalDigest(ch.hash, b)
	if err != nil || tee != "se" {
		return digest, err
	}
	var request map[string]json.RawMessage
	if err := json.Unmarshal([]byte(ch.nonce), &request); err != nil || request == nil {
		return nil, fmt.Errorf("secure execution request of %d bytes is not a JSON object", len(ch.nonce))
	}
	if request["runtime_data_digest"], err = json.Marshal(base64.StdEncoding.EncodeToString(digest)); err != nil {
		return nil, fmt.Errorf("encode runtime data digest: %w", err)
	}
	return json.Marshal(request)
}
