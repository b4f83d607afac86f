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
	// ComparedMember is false in the evidence of which nobody said what its
	// report data should be: it may be of another time or machine.
	ComparedMember = "report_data_compared"

	// IssuedForMember marks a token for another relying party. That party may
	// have chosen the nonce long ago or none at all, so a broker must not
	// release secrets on such a token.
	IssuedForMember = "ear.cocoon.issued-for"
	relyingParty    = "relying-party"

	vectorMember = "ear.trustworthiness-vector"
	policyMember = "ear.appraisal-policy-id"

	// defaultPolicy is the stem of the ids of the policies that are used unless
	// somebody asks for others.
	defaultPolicy = "default"
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
	parts, err := e.parts()
	if err != nil {
		return nil, err
	}
	return s.assess(ctx, parts, defaultPolicy)
}

// parts are the primary evidence and that of every device.
func (e Evidence) parts() ([]part, error) {
	all, devices := e.Runtime.claims(), e.Runtime.deviceClaims()
	whole, err := digest(e.TEE, all)
	if err != nil {
		return nil, err
	}
	first := part{tee: e.TEE, raw: e.Primary, binding: Binding{ReportData: whole}, runtime: all}
	if e.InitData != "" {
		doc, err := parseInitData(e.InitData)
		if err != nil {
			return nil, err
		}
		first.binding.InitData, first.init = doc.digest, doc.claims
	}
	additional, err := parseDevices(e.Runtime.Additional)
	if err != nil {
		return nil, err
	}
	parts := []part{first}
	for _, tee := range slices.Sorted(maps.Keys(additional)) {
		p := first
		p.tee, p.raw, p.device = tee, additional[tee], true
		if p.binding.ReportData, err = digest(tee, devices); err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// part is one piece of evidence with what it has to cover.
type part struct {
	tee     string
	raw     json.RawMessage
	binding Binding
	device  bool
	// runtime and init are what the token says that it covers; nil if only
	// digests or nothing at all is known.
	runtime, init map[string]any
}

// assess verifies and appraises all parts, or fails as a whole.
func (s *Service) assess(ctx context.Context, parts []part, policyID string) (map[string]any, error) {
	verified := make([]*Claims, 0, len(parts))
	for _, p := range parts {
		c, err := s.verify(ctx, p)
		if err != nil {
			return nil, err
		}
		verified = append(verified, c)
	}
	submods, count := map[string]any{}, map[string]int{}
	for i, c := range verified {
		name := c.Class + strconv.Itoa(count[c.Class])
		count[c.Class]++
		m, err := s.submod(ctx, c.Class, policyID, evidenceClaims(parts[i], c))
		if err != nil {
			return nil, fmt.Errorf("submodule %q: %w", name, err)
		}
		submods[name] = m
	}
	return map[string]any{"submods": submods}, nil
}

func (s *Service) verify(ctx context.Context, p part) (c *Claims, err error) {
	defer func() {
		if err != nil && p.device {
			err = fmt.Errorf("additional evidence: %w", err)
		}
	}()
	v, err := s.verifier(p.tee)
	if err != nil {
		return nil, err
	}
	if c, err = v.Verify(ctx, p.raw, p.binding); err != nil {
		return nil, fmt.Errorf("verify %q evidence: %w", p.tee, err)
	}
	return c, nil
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
func evidenceClaims(p part, c *Claims) map[string]any {
	m := map[string]any{
		"report_data":         c.ReportData,
		"runtime_data_claims": orNull(p.runtime),
		p.tee:                 c.Values,
	}
	if p.binding.Unbound {
		m[ComparedMember] = false
	}
	if c.InitData != nil {
		m["init_data"] = *c.InitData
		m["init_data_claims"] = orNull(p.init)
	}
	return m
}

// orNull keeps a missing object apart from an empty one.
func orNull(m map[string]any) any {
	if m == nil {
		return nil
	}
	return m
}

func (s *Service) submod(ctx context.Context, class, policyID string, claims map[string]any) (map[string]any, error) {
	p, err := s.cfg.Policies.Get(policyID + "_" + class)
	if err != nil {
		return nil, fmt.Errorf("attestation %w", err)
	}
	a, err := appraise(ctx, p, policy.Eval{Input: claims, Lookup: s.cfg.Lookup})
	if err != nil {
		return nil, err
	}
	m := map[string]any{
		StatusMember:   a.status,
		vectorMember:   a.vector,
		policyMember:   policyID,
		EvidenceMember: claims,
	}
	maps.Copy(m, a.extensions)
	if len(a.reasons) > 0 {
		m[ReasonsMember] = a.reasons
	}
	return m, nil
}
