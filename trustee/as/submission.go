// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package as

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

const (
	// maxSubmissions bounds what one token is about.
	maxSubmissions = maxDevices + 1
	// maxRuntimeTokens bounds the delimiters, names and values of structured
	// runtime data, which becomes the input of a policy.
	maxRuntimeTokens = 8192
)

// ErrSubmission is returned for a submission that says nothing that could be
// verified.
var ErrSubmission = errors.New("invalid submission")

// Submission is evidence that another relying party hands in. What it has to
// cover is for that party to say: the service has given it no nonce.
type Submission struct {
	TEE      string
	Evidence json.RawMessage
	// Runtime is what the report data has to be, nil if nobody compares it.
	Runtime *RuntimeData
	// InitDigest is what the init data has to be the digest of; InitData is the
	// text itself. At most one is set.
	InitDigest []byte
	InitData   string
}

// RuntimeData is the expected report data, with the structure that it is the
// digest of if that is known.
type RuntimeData struct {
	digest []byte
	claims map[string]any
}

// RawRuntimeData expects the evidence to hold data itself.
func RawRuntimeData(data []byte) (*RuntimeData, error) {
	if len(data) == 0 {
		return nil, fmt.Errorf("raw runtime data is empty: leave it out if it should not be compared: %w", ErrSubmission)
	}
	return &RuntimeData{digest: data}, nil
}

// StructuredRuntimeData expects the evidence to hold the digest of an object in
// canonical JSON (RFC 8785). No algorithm means sha384.
func StructuredRuntimeData(raw []byte, algorithm string) (*RuntimeData, error) {
	if err := checkSize(raw); err != nil {
		return nil, fmt.Errorf("structured runtime data: %w: %w", ErrSubmission, err)
	}
	var claims map[string]any
	if err := json.Unmarshal(raw, &claims); err != nil {
		return nil, fmt.Errorf("structured runtime data: %w: %w", ErrSubmission, err)
	}
	if claims == nil {
		return nil, fmt.Errorf("structured runtime data is no object: %w", ErrSubmission)
	}
	text, err := canonical(claims)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSubmission, err)
	}
	if algorithm == "" {
		algorithm = "sha384"
	}
	d, ok := sum(algorithm, text)
	if !ok {
		return nil, fmt.Errorf("hash algorithm %q of the runtime data, want sha256, sha384 or sha512: %w", algorithm, ErrSubmission)
	}
	return &RuntimeData{digest: d, claims: claims}, nil
}

// checkSize counts before anything is kept.
func checkSize(raw []byte) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	for range maxRuntimeTokens {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return fmt.Errorf("more than %d parts", maxRuntimeTokens)
}

// Judge verifies and appraises submissions by the policies <policyID>_<class>
// and returns the claims of their one token. An empty policyID means default.
func (s *Service) Judge(ctx context.Context, all []Submission, policyID string) (map[string]any, error) {
	if len(all) == 0 || len(all) > maxSubmissions {
		return nil, fmt.Errorf("%d verification requests, want 1 to %d: %w", len(all), maxSubmissions, ErrSubmission)
	}
	if policyID == "" {
		policyID = defaultPolicy
	}
	parts := make([]part, 0, len(all))
	for i, sub := range all {
		p, err := sub.part()
		if err != nil {
			return nil, fmt.Errorf("verification request %d: %w", i, err)
		}
		parts = append(parts, p)
	}
	claims, err := s.assess(ctx, parts, policyID)
	if err != nil {
		return nil, err
	}
	claims[IssuedForMember] = relyingParty
	return claims, nil
}

func (sub Submission) part() (part, error) {
	p := part{tee: sub.TEE, raw: sub.Evidence, binding: Binding{Unbound: true}}
	if sub.Runtime != nil {
		p.binding, p.runtime = Binding{ReportData: sub.Runtime.digest}, sub.Runtime.claims
	}
	switch {
	case sub.InitDigest != nil && sub.InitData != "":
		return p, fmt.Errorf("init data as a digest and as a text: %w", ErrSubmission)
	case sub.InitDigest != nil && len(sub.InitDigest) == 0:
		return p, fmt.Errorf("the digest of the init data is empty: %w", ErrSubmission)
	case sub.InitDigest != nil:
		p.binding.InitData = sub.InitDigest
	case sub.InitData != "":
		doc, err := parseInitData(sub.InitData)
		if err != nil {
			return p, err
		}
		p.binding.InitData, p.init = doc.digest, doc.claims
	}
	return p, nil
}

// Challenger is a Verifier of evidence that is made from a challenge of the
// verifier's making, beyond a nonce.
type Challenger interface {
	Challenge(ctx context.Context, params string) (string, error)
}

// Challenge returns the challenge for a guest of a TEE, which is empty for a TEE
// that needs none: a nonce is then for the relying party to choose.
func (s *Service) Challenge(ctx context.Context, tee, params string) (string, error) {
	v, err := s.verifier(tee)
	if err != nil {
		return "", err
	}
	c, ok := v.(Challenger)
	if !ok {
		return "", nil
	}
	challenge, err := c.Challenge(ctx, params)
	if err != nil {
		return "", fmt.Errorf("challenge for %q: %w", tee, err)
	}
	return challenge, nil
}
