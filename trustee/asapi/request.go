// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package asapi

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"cocoon/internal/wire/aspb"
	"cocoon/trustee/as"
)

// request is what either interface is asked to evaluate.
type request struct {
	items     []item
	policyIDs []string
}

// item is one piece of evidence as it came.
type item struct {
	tee, evidence        string
	raw                  *string
	structured           []byte
	algorithm            string
	initDigest, initTOML *string
}

// parseRequest reads the body of POST /attestation.
func parseRequest(body []byte) (request, error) {
	var q struct {
		Items []struct {
			TEE      string `json:"tee"`
			Evidence string `json:"evidence"`
			Runtime  *struct {
				Raw        *string         `json:"raw"`
				Structured json.RawMessage `json:"structured"`
			} `json:"runtime_data"`
			Init *struct {
				Digest *string `json:"init_data_digest"`
				TOML   *string `json:"init_data_toml"`
			} `json:"init_data"`
			Algorithm string `json:"runtime_data_hash_algorithm"`
		} `json:"verification_requests"`
		PolicyIDs []string `json:"policy_ids"`
	}
	if err := json.Unmarshal(body, &q); err != nil {
		return request{}, fail(malformed, fmt.Errorf("parse request: %w", err))
	}
	out := request{policyIDs: q.PolicyIDs}
	for i, x := range q.Items {
		it := item{tee: x.TEE, evidence: x.Evidence, algorithm: x.Algorithm}
		if x.Runtime != nil {
			it.raw, it.structured = x.Runtime.Raw, x.Runtime.Structured
			if (it.raw == nil) == (it.structured == nil) {
				return request{}, fail(malformed, fmt.Errorf("verification request %d: runtime_data needs raw or structured, and not both", i))
			}
		}
		if x.Init != nil {
			it.initDigest, it.initTOML = x.Init.Digest, x.Init.TOML
			if (it.initDigest == nil) == (it.initTOML == nil) {
				return request{}, fail(malformed, fmt.Errorf("verification request %d: init_data needs init_data_digest or init_data_toml, and not both", i))
			}
		}
		out.items = append(out.items, it)
	}
	return out, nil
}

// requestOf takes the message of AttestationEvaluate.
func requestOf(m *aspb.AttestationRequest) request {
	out := request{policyIDs: m.GetPolicyIds()}
	for _, x := range m.GetVerificationRequests() {
		it := item{tee: x.GetTee(), evidence: x.GetEvidence(), algorithm: x.GetRuntimeDataHashAlgorithm()}
		switch d := x.GetRuntimeData().(type) {
		case *aspb.IndividualAttestationRequest_RawRuntimeData:
			it.raw = &d.RawRuntimeData
		case *aspb.IndividualAttestationRequest_StructuredRuntimeData:
			it.structured = append([]byte{}, d.StructuredRuntimeData...) // not nil: it was sent
		}
		switch d := x.GetInitData().(type) {
		case *aspb.IndividualAttestationRequest_InitDataDigest:
			it.initDigest = &d.InitDataDigest
		case *aspb.IndividualAttestationRequest_InitDataToml:
			it.initTOML = &d.InitDataToml
		}
		out.items = append(out.items, it)
	}
	return out
}

func (q request) submissions() ([]as.Submission, error) {
	all := make([]as.Submission, 0, len(q.items))
	for i, it := range q.items {
		s, err := it.submission()
		if err != nil {
			return nil, problemOf(fmt.Errorf("verification request %d: %w", i, err), malformed)
		}
		all = append(all, s)
	}
	return all, nil
}

// policyID is the first of them, as upstream takes it: one token holds one
// verdict about each submodule.
func (q request) policyID() (string, error) {
	if len(q.policyIDs) == 0 {
		return "default", nil
	}
	if len(q.policyIDs) > maxPolicyIDs {
		return "", fail(malformed, fmt.Errorf("%d policy ids, at most %d", len(q.policyIDs), maxPolicyIDs))
	}
	id := q.policyIDs[0]
	if id == "" || len(id) > maxName {
		return "", fail(malformed, fmt.Errorf("policy id of %d bytes, want 1 to %d", len(id), maxName))
	}
	return id, nil
}

func (it item) submission() (as.Submission, error) {
	s := as.Submission{TEE: it.tee}
	if it.tee == "" || len(it.tee) > maxName {
		return s, fmt.Errorf("name of a TEE of %d bytes, want 1 to %d", len(it.tee), maxName)
	}
	var err error
	if s.Evidence, err = decode("evidence", it.evidence); err != nil {
		return s, err
	}
	if !json.Valid(s.Evidence) {
		return s, errors.New("evidence is no JSON once decoded")
	}
	if s.Runtime, err = it.runtime(); err != nil {
		return s, err
	}
	if it.initTOML != nil {
		if s.InitData = *it.initTOML; s.InitData == "" {
			return s, errors.New("init_data_toml is empty: leave it out if there is none")
		}
	}
	if it.initDigest != nil {
		if s.InitDigest, err = decode("init_data_digest", *it.initDigest); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (it item) runtime() (*as.RuntimeData, error) {
	switch {
	case it.raw != nil:
		data, err := decode("raw runtime data", *it.raw)
		if err != nil {
			return nil, err
		}
		return as.RawRuntimeData(data)
	case it.structured != nil:
		return as.StructuredRuntimeData(it.structured, it.algorithm)
	}
	return nil, nil
}

// decode never returns nil with a nil error.
func decode(what, text string) ([]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%s is no base64url without padding: %w", what, err)
	}
	return b, nil
}
