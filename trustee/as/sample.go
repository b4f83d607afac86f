// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package as

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
)

const maxSVN = 64

// ErrEvidence is returned for evidence that is malformed or not bound to the
// session.
var ErrEvidence = errors.New("evidence refused")

// Claims are what a verifier read from evidence that it accepted.
type Claims struct {
	// Class is cpu or gpu, the stem of the submodule's name.
	Class string
	// ReportData and InitData are the verifier's textual form of the two;
	// InitData is nil when the evidence has no such field.
	ReportData string
	InitData   *string
	// Values are all other claims.
	Values map[string]any
}

// Verifier checks the evidence of one kind of TEE.
type Verifier interface {
	Verify(ctx context.Context, evidence json.RawMessage, b Binding) (*Claims, error)
}

// sample verifies the evidence of the two TEEs that are none: it has no
// signature, so everything in it but the session binding is the guest's word.
// They exist for tests and demonstrations.
type sample struct {
	class string
	// fixed are claims that a real TEE would measure.
	fixed map[string]any
}

// The constants are those of the upstream verifier, so that the same reference
// values and policies work with both.
func newSample() sample {
	return sample{class: "cpu", fixed: map[string]any{
		"launch_digest":    "abcde",
		"platform_version": map[string]any{"major": 1, "minor": 4},
		"debug":            false,
	}}
}

func newSampleDevice() sample { return sample{class: "gpu"} }

// Verify implements Verifier.
func (s sample) Verify(_ context.Context, evidence json.RawMessage, b Binding) (*Claims, error) {
	var e struct {
		SVN        *string `json:"svn"`
		ReportData string  `json:"report_data"`
	}
	if err := json.Unmarshal(evidence, &e); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvidence, err)
	}
	if e.SVN == nil || len(*e.SVN) > maxSVN {
		return nil, fmt.Errorf("member svn is missing or longer than %d bytes: %w", maxSVN, ErrEvidence)
	}
	got, err := base64.StdEncoding.DecodeString(e.ReportData)
	if err != nil {
		return nil, fmt.Errorf("report_data: %w: %w", ErrEvidence, err)
	}
	if !b.Unbound && subtle.ConstantTimeCompare(got, b.ReportData) != 1 {
		return nil, fmt.Errorf("report_data is not the digest of this session's runtime data: %w", ErrEvidence)
	}
	c := &Claims{Class: s.class, ReportData: e.ReportData, Values: map[string]any{"svn": *e.SVN}}
	for name, v := range s.fixed {
		c.Values[name] = v
	}
	if b.InitData != nil && s.class == "cpu" {
		echo := base64.StdEncoding.EncodeToString(b.InitData)
		c.InitData = &echo
	}
	return c, nil
}
