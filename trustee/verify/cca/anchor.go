// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cca

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/go-jose/go-jose/v4"

	"cocoon/internal/bounded"
)

const (
	maxStore   = 16 << 20
	maxAnchors = 100_000
)

// ErrUntrusted is returned for a token of a platform that nobody vouches for.
var ErrUntrusted = errors.New("the platform is not among the trusted ones")

// anchor is the attestation key of one platform, its CPAK.
type anchor struct {
	key            *ecdsa.PublicKey
	implementation []byte
}

// anchors are the trusted platforms by instance id.
type anchors map[string]anchor

// readAnchors reads the file in which upstream's verifier has them as well: a
// list of objects with the members pkey, a JWK, implementation-id and
// instance-id, both in hex.
func readAnchors(file string) (anchors, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("trust anchors of CCA: %w", err)
	}
	raw, err := bounded.ReadAll(io.Reader(f), maxStore)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("trust anchors of CCA: %w", err)
	}
	a, err := parseAnchors(raw)
	if err != nil {
		return nil, fmt.Errorf("trust anchors of CCA in %q: %w", file, err)
	}
	return a, nil
}

func parseAnchors(raw []byte) (anchors, error) {
	var list []struct {
		Key            json.RawMessage `json:"pkey"`
		Implementation string          `json:"implementation-id"`
		Instance       string          `json:"instance-id"`
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&list); err != nil {
		return nil, err
	}
	if len(list) == 0 || len(list) > maxAnchors {
		return nil, fmt.Errorf("%d anchors, want 1 to %d", len(list), maxAnchors)
	}
	all := make(anchors, len(list))
	for i, e := range list {
		implementation, err := hex.DecodeString(e.Implementation)
		if err != nil || len(implementation) != implementationSize {
			return nil, fmt.Errorf("anchor %d: implementation-id %.80q is not %d bytes in hex", i, e.Implementation, implementationSize)
		}
		instance, err := hex.DecodeString(e.Instance)
		if err != nil || len(instance) != instanceSize {
			return nil, fmt.Errorf("anchor %d: instance-id %.80q is not %d bytes in hex", i, e.Instance, instanceSize)
		}
		var jwk jose.JSONWebKey
		if err := jwk.UnmarshalJSON(e.Key); err != nil {
			return nil, fmt.Errorf("anchor %d: %w", i, err)
		}
		key, ok := jwk.Key.(*ecdsa.PublicKey)
		if !ok {
			return nil, fmt.Errorf("anchor %d: its key is no public key on an elliptic curve", i)
		}
		if _, ok := all[string(instance)]; ok {
			return nil, fmt.Errorf("anchor %d: instance %s is there twice", i, e.Instance)
		}
		all[string(instance)] = anchor{key: key, implementation: implementation}
	}
	return all, nil
}
