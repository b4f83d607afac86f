// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"crypto"
	"crypto/sha256"
	_ "crypto/sha512" // SHA-384 and SHA-512 for crypto.Hash
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"unicode/utf8"
)

type hashAlgorithm struct {
	name string
	hash crypto.Hash
}

// hashAlgorithms returns what the client can bind evidence with; the first is
// used when the broker selects none.
func hashAlgorithms() []hashAlgorithm {
	return []hashAlgorithm{{"sha384", crypto.SHA384}, {"sha256", crypto.SHA256}, {"sha512", crypto.SHA512}}
}

func hashNames() []string {
	var names []string
	for _, h := range hashAlgorithms() {
		names = append(names, h.name)
	}
	slices.Sort(names)
	return names
}

// challenge is the broker's answer to the first request.
type challenge struct {
	nonce string // opaque: a secure execution broker puts JSON in it
	hash  hashAlgorithm
}

// parseChallenge parses the body of an auth answer.
func parseChallenge(body []byte) (challenge, error) {
	var raw struct {
		Nonce *string         `json:"nonce"`
		Extra json.RawMessage `json:"extra-params"`
	}
	if err := json.Unmarshal(body, &raw); err != nil {
		return challenge{}, fmt.Errorf("parse %d bytes: %w", len(body), err)
	}
	if raw.Nonce == nil || *raw.Nonce == "" {
		return challenge{}, errors.New("no nonce")
	}
	// The decoder puts U+FFFD for what is not text; such a nonce would not
	// come out again as it went in.
	for _, r := range *raw.Nonce {
		if r == utf8.RuneError {
			return challenge{}, errors.New("nonce is not text")
		}
	}
	h, err := selectedHash(raw.Extra)
	return challenge{nonce: *raw.Nonce, hash: h}, err
}

// selectedHash reads extra-params: absent, null, "" or an object.
func selectedHash(extra json.RawMessage) (hashAlgorithm, error) {
	known := hashAlgorithms()
	if s := string(extra); s == "" || s == "null" || s == `""` {
		return known[0], nil
	}
	var params map[string]json.RawMessage
	if err := json.Unmarshal(extra, &params); err != nil {
		return hashAlgorithm{}, errors.New("extra-params is neither empty nor an object")
	}
	raw, ok := params["selected-hash-algorithm"]
	if !ok {
		return known[0], nil
	}
	var name *string
	if err := json.Unmarshal(raw, &name); err != nil || name == nil {
		return hashAlgorithm{}, errors.New("selected hash algorithm is not a string")
	}
	for _, h := range known {
		if h.name == *name {
			return h, nil
		}
	}
	return hashAlgorithm{}, fmt.Errorf("hash algorithm %.32q is not supported", *name)
}

// errReplayed says that a broker sent a nonce twice, which makes evidence
// replayable.
var errReplayed = errors.New("nonce was used before")

const rememberedNonces = 256

// nonceMemory remembers digests of the latest nonces.
type nonceMemory struct {
	mu   sync.Mutex // guards the fields below
	seen [][sha256.Size]byte
}

func newNonceMemory() *nonceMemory { return &nonceMemory{} }

func (m *nonceMemory) use(nonce string) error {
	d := sha256.Sum256([]byte(nonce))
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.Contains(m.seen, d) {
		return errReplayed
	}
	if len(m.seen) == rememberedNonces {
		m.seen = slices.Delete(m.seen, 0, 1)
	}
	m.seen = append(m.seen, d)
	return nil
}
