// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package as is the attestation service: it verifies evidence, appraises it
// against reference values, and says the result in a token.
//
// Everything in an Evidence comes from somebody who claims to be a guest and
// is not trusted before a Verifier accepted it. Policies and reference values
// belong to the operator. The shapes are those of the CoCo attestation service.
package as

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"cocoon/trustee/policy"
)

var (
	// ErrUnknownTEE is returned for a TEE that has no verifier here.
	ErrUnknownTEE = errors.New("TEE is not supported")
	// ErrSampleDisabled is returned for sample evidence unless the service was
	// told to accept it.
	ErrSampleDisabled = errors.New("sample evidence proves nothing and is not accepted: the broker was started without --allow-sample")
)

const (
	teeSample       = "sample"
	teeSampleDevice = "sampledevice"

	maxDevices = 16

	// ReasonsMember holds, per submodule, what did not match.
	ReasonsMember = "ear.cocoon.reasons"
	// StatusMember holds the overall verdict about a submodule.
	StatusMember = "ear.status"
	// EvidenceMember holds the claims that the verdict is about.
	EvidenceMember = "ear.veraison.annotated-evidence"

	vectorMember = "ear.trustworthiness-vector"
	policyMember = "ear.appraisal-policy-id"
)

func submodMembers() []string {
	return []string{ReasonsMember, StatusMember, EvidenceMember, vectorMember, policyMember}
}

// Evidence is what a guest hands in.
type Evidence struct {
	// TEE is the kind that the session was opened for.
	TEE     string
	Primary json.RawMessage
	Runtime Runtime
	// InitData is the TOML text of the guest, empty if it sent none.
	InitData string
}

// Config says what a Service works with.
type Config struct {
	// Verifiers by name of the TEE, beside the two sample ones.
	Verifiers map[string]Verifier
	// AllowSample admits the sample TEEs.
	AllowSample bool
	// Policies are the attestation policies, one default_<class> per class.
	Policies *policy.Set
	// Lookup finds reference values.
	Lookup func(name string) (any, bool)
}

// Service evaluates evidence. It is safe for concurrent use.
type Service struct {
	cfg       Config
	verifiers map[string]Verifier
}

// New returns a Service.
func New(cfg Config) *Service {
	v := maps.Clone(cfg.Verifiers)
	if v == nil {
		v = map[string]Verifier{}
	}
	if cfg.AllowSample {
		v[teeSample], v[teeSampleDevice] = newSample(), newSampleDevice()
	}
	return &Service{cfg: cfg, verifiers: v}
}

// Supports tells with ErrUnknownTEE or ErrSampleDisabled why a guest of this
// TEE need not try.
func (s *Service) Supports(tee string) error {
	_, err := s.verifier(tee)
	return err
}

func (s *Service) verifier(tee string) (Verifier, error) {
	if v, ok := s.verifiers[tee]; ok {
		return v, nil
	}
	if tee == teeSample || tee == teeSampleDevice {
		return nil, ErrSampleDisabled
	}
	return nil, fmt.Errorf("%q: %w", tee, ErrUnknownTEE)
}

// Evaluate verifies and appraises e and returns the claims of its token,
// without the registered ones of the issuer.
func (s *Service) Evaluate(ctx context.Context, e Evidence) (map[string]any, error) {
	var doc *initData
	if e.InitData != "" {
		var err error
		if doc, err = parseInitData(e.InitData); err != nil {
			return nil, err
		}
	}
	all, err := s.verifyAll(ctx, e, doc)
	if err != nil {
		return nil, err
	}
	submods, count := map[string]any{}, map[string]int{}
	for _, v := range all {
		name := v.claims.Class + strconv.Itoa(count[v.claims.Class])
		count[v.claims.Class]++
		if submods[name], err = s.submod(ctx, v, evidenceClaims(v, e, doc)); err != nil {
			return nil, fmt.Errorf("submodule %q: %w", name, err)
		}
	}
	return map[string]any{"submods": submods}, nil
}

type verified struct {
	tee    string
	claims *Claims
}

// verifyAll checks the primary evidence and that of every device.
func (s *Service) verifyAll(ctx context.Context, e Evidence, doc *initData) ([]verified, error) {
	var init []byte
	if doc != nil {
		init = doc.digest
	}
	first, err := s.verifyOne(ctx, part{tee: e.TEE, raw: e.Primary, covers: e.Runtime.claims(), init: init})
	if err != nil {
		return nil, err
	}
	all := []verified{first}
	devices, err := parseDevices(e.Runtime.Additional)
	if err != nil {
		return nil, err
	}
	for _, tee := range slices.Sorted(maps.Keys(devices)) {
		v, err := s.verifyOne(ctx, part{tee: tee, raw: devices[tee], covers: e.Runtime.deviceClaims(), init: init})
		if err != nil {
			return nil, fmt.Errorf("additional evidence: %w", err)
		}
		all = append(all, v)
	}
	return all, nil
}

type part struct {
	tee    string
	raw    json.RawMessage
	covers map[string]any
	init   []byte
}

func (s *Service) verifyOne(ctx context.Context, p part) (verified, error) {
	v, err := s.verifier(p.tee)
	if err != nil {
		return verified{}, err
	}
	d, err := digest(p.covers)
	if err != nil {
		return verified{}, err
	}
	c, err := v.Verify(ctx, p.raw, Binding{ReportData: d, InitData: p.init})
	if err != nil {
		return verified{}, fmt.Errorf("verify %q evidence: %w", p.tee, err)
	}
	return verified{tee: p.tee, claims: c}, nil
}

// parseDevices reads the text of additional evidence: an object of TEE name to
// evidence, or nothing.
func parseDevices(text string) (map[string]json.RawMessage, error) {
	if text == "" {
		return nil, nil
	}
	var devices map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &devices); err != nil {
		return nil, fmt.Errorf("additional evidence: %w: %w", ErrEvidence, err)
	}
	if len(devices) > maxDevices {
		return nil, fmt.Errorf("additional evidence of %d devices, at most %d: %w", len(devices), maxDevices, ErrEvidence)
	}
	return devices, nil
}

// evidenceClaims is the input of the attestation policy and, in the token, the
// annotated evidence.
func evidenceClaims(v verified, e Evidence, doc *initData) map[string]any {
	m := map[string]any{
		"report_data":         v.claims.ReportData,
		"runtime_data_claims": e.Runtime.claims(),
		v.tee:                 v.claims.Values,
	}
	if v.claims.InitData != nil {
		m["init_data"] = *v.claims.InitData
		m["init_data_claims"] = nil
		if doc != nil {
			m["init_data_claims"] = doc.claims
		}
	}
	return m
}

func (s *Service) submod(ctx context.Context, v verified, claims map[string]any) (map[string]any, error) {
	p, err := s.cfg.Policies.Get("default_" + v.claims.Class)
	if err != nil {
		return nil, err
	}
	a, err := appraise(ctx, p, policy.Eval{Input: claims, Lookup: s.cfg.Lookup})
	if err != nil {
		return nil, err
	}
	m := map[string]any{
		StatusMember:   a.status,
		vectorMember:   a.vector,
		policyMember:   "default",
		EvidenceMember: claims,
	}
	maps.Copy(m, a.extensions)
	if len(a.reasons) > 0 {
		m[ReasonsMember] = a.reasons
	}
	return m, nil
}
