// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package intoto reads reference values out of an in-toto Statement v1 in a
// DSSE envelope.
//
// Whoever hands in an envelope may have made it up; nothing of a signed one is
// looked at before its signature is checked. Only a statement of PredicateType
// counts: a signature under any other, say a list of contents or of known
// faults, does not say that its subject is good.
//
// The predicate is an object with the members values (names and values as in a
// plain message), and optionally notBefore and expires (RFC 3339). Each subject
// is a value too: its name with the list of its digests.
package intoto

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"cocoon/trustee/rvps/signer"
)

const (
	// PredicateType is that of reference values.
	PredicateType = "https://cocoon.dev/reference-values/v1"
	// StatementType is the only version of a statement.
	StatementType = "https://in-toto.io/Statement/v1"
	// PayloadType is what the envelope says that it holds.
	PayloadType = "application/vnd.in-toto+json"

	// MaxSize bounds an envelope, in bytes.
	MaxSize = 1 << 20

	maxSignatures = 16
	maxSubjects   = 4096
)

// ErrBadStatement is returned for what is no usable statement.
var ErrBadStatement = errors.New("invalid in-toto statement")

// Statement is what an envelope says.
type Statement struct {
	// Values are the reference values by name; numbers are json.Number.
	Values map[string]any
	// NotBefore and NotAfter bound the validity; zero means no bound.
	NotBefore, NotAfter time.Time
	// Signer is the key that signed, nil if nobody did.
	Signer *signer.Key
}

type envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     string      `json:"payload"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	Sig string `json:"sig"`
}

type statement struct {
	Type          string          `json:"_type"`
	Subject       []subject       `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

type predicate struct {
	Values    map[string]any `json:"values"`
	NotBefore *time.Time     `json:"notBefore"`
	Expires   *time.Time     `json:"expires"`
}

// Parse reads raw. With keys the envelope must be signed by one of them;
// without it must be unsigned, since nobody could check a signature.
func Parse(raw []byte, keys []signer.Key) (*Statement, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("%d bytes, at most %d: %w", len(raw), MaxSize, ErrBadStatement)
	}
	var e envelope
	if err := decode(raw, &e); err != nil {
		return nil, fmt.Errorf("envelope: %w: %w", ErrBadStatement, err)
	}
	if e.PayloadType != PayloadType {
		return nil, fmt.Errorf("payload type %q, want %q: %w", e.PayloadType, PayloadType, ErrBadStatement)
	}
	body, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil {
		return nil, fmt.Errorf("payload: %w: %w", ErrBadStatement, err)
	}
	out := &Statement{Values: map[string]any{}}
	if out.Signer, err = e.check(body, keys); err != nil {
		return nil, err
	}
	if err := out.read(body); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadStatement, err)
	}
	return out, nil
}

func (e envelope) check(body []byte, keys []signer.Key) (*signer.Key, error) {
	switch {
	case len(e.Signatures) > maxSignatures:
		return nil, fmt.Errorf("%d signatures, at most %d: %w", len(e.Signatures), maxSignatures, ErrBadStatement)
	case len(keys) == 0 && len(e.Signatures) == 0:
		return nil, nil
	case len(keys) == 0:
		return nil, fmt.Errorf("the envelope is signed and no signers are configured to check it with: %w", signer.ErrUnsigned)
	}
	message := authenticated(e.PayloadType, body)
	for _, s := range e.Signatures {
		sig, err := base64.StdEncoding.DecodeString(s.Sig)
		if err != nil {
			return nil, fmt.Errorf("signature: %w: %w", ErrBadStatement, err)
		}
		for _, k := range keys {
			if k.Verifies(message, sig) {
				return &k, nil
			}
		}
	}
	return nil, fmt.Errorf("envelope of %d signatures: %w", len(e.Signatures), signer.ErrUnsigned)
}

// authenticated is what DSSE signs: type and body, each behind its length.
func authenticated(kind string, body []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(body), body)
}

func (out *Statement) read(body []byte) error {
	var s statement
	if err := decode(body, &s); err != nil {
		return err
	}
	if s.Type != StatementType {
		return fmt.Errorf("statement of type %q, want %q", s.Type, StatementType)
	}
	if s.PredicateType != PredicateType {
		return fmt.Errorf("predicate type %q says nothing of reference values, want %q", s.PredicateType, PredicateType)
	}
	var p predicate
	if err := decode(s.Predicate, &p); err != nil {
		return fmt.Errorf("predicate: %w", err)
	}
	if len(s.Subject) > maxSubjects {
		return fmt.Errorf("%d subjects, at most %d", len(s.Subject), maxSubjects)
	}
	maps.Copy(out.Values, p.Values)
	if p.NotBefore != nil {
		out.NotBefore = *p.NotBefore
	}
	if p.Expires != nil {
		out.NotAfter = *p.Expires
	}
	for i, sub := range s.Subject {
		if err := out.add(sub); err != nil {
			return fmt.Errorf("subject %d: %w", i, err)
		}
	}
	return nil
}

// add makes the digests of a subject a value.
func (out *Statement) add(s subject) error {
	if _, ok := out.Values[s.Name]; ok {
		return fmt.Errorf("a second value of the name %q", s.Name)
	}
	if len(s.Digest) == 0 {
		return fmt.Errorf("%q has no digest", s.Name)
	}
	sizes := map[string]int{"sha256": 32, "sha384": 48, "sha512": 64}
	var list []any
	for _, alg := range slices.Sorted(maps.Keys(s.Digest)) {
		text := s.Digest[alg]
		b, err := hex.DecodeString(text)
		if size, ok := sizes[alg]; !ok || err != nil || len(b) != size || hex.EncodeToString(b) != text {
			return fmt.Errorf("%q: digest %q is none of sha256, sha384 or sha512 in lower-case hexadecimal", s.Name, alg)
		}
		list = append(list, text)
	}
	out.Values[s.Name] = list
	return nil
}

// decode reads one JSON value with nothing behind it; a reference value must
// equal the claim digit by digit, so numbers stay text.
func decode(raw []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data after the value")
	}
	return nil
}
