// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package as

import (
	"context"
	_ "embed" // the default policy is a file of its own
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cocoon/trustee/policy"
)

var (
	//go:embed default_cpu.rego
	defaultCPU string
	//go:embed default_other.rego
	defaultOther string
)

// DefaultPolicies returns the built-in attestation policies by id. That of
// class cpu knows the reference values launch_digest, svn, major_version and
// minimum_minor_version; the other classes have no rules that affirm anything.
func DefaultPolicies() map[string]string {
	return map[string]string{"default_cpu": defaultCPU, "default_gpu": defaultOther}
}

// ErrAppraisal is returned when a policy yields no usable trust vector.
var ErrAppraisal = errors.New("appraisal failed")

const (
	maxReasons   = 32
	maxReasonLen = 512
)

// trustClaims are the members of an AR4SI trustworthiness vector.
func trustClaims() []string {
	return []string{
		"configuration", "executables", "file-system", "hardware",
		"instance-identity", "runtime-opaque", "sourced-data", "storage-opaque",
	}
}

// appraisal is the verdict of a policy about one submodule.
type appraisal struct {
	status     string
	vector     map[string]int
	reasons    []string
	extensions map[string]any
}

// appraise evaluates p on the claims of one submodule.
func appraise(ctx context.Context, p *policy.Policy, e policy.Eval) (*appraisal, error) {
	raw, ok, err := p.Value(ctx, "trust_claims", e)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAppraisal, err)
	}
	vector := map[string]int{}
	if ok {
		if vector, err = readVector(raw); err != nil {
			return nil, err
		}
	}
	for _, name := range trustClaims() {
		if _, set := vector[name]; !set {
			vector[name] = 0
		}
	}
	ext, err := readExtensions(ctx, p, e)
	if err != nil {
		return nil, err
	}
	reasons, err := readReasons(ctx, p, e)
	if err != nil {
		return nil, err
	}
	return &appraisal{status: statusOf(vector), vector: vector, reasons: reasons, extensions: ext}, nil
}

func readVector(raw any) (map[string]int, error) {
	values, ok := raw.(map[string]any)
	if !ok || len(values) == 0 {
		return nil, fmt.Errorf("trust_claims is no object with members: %w", ErrAppraisal)
	}
	vector := make(map[string]int, len(values))
	for name, v := range values {
		if !slices.Contains(trustClaims(), name) {
			return nil, fmt.Errorf("unknown trust claim %q: %w", name, ErrAppraisal)
		}
		n, ok := v.(json.Number)
		if !ok {
			return nil, fmt.Errorf("trust claim %q is no number: %w", name, ErrAppraisal)
		}
		i, err := n.Int64()
		if err != nil || i < -128 || i > 127 {
			return nil, fmt.Errorf("trust claim %q is %s, want an integer of one byte: %w", name, n, ErrAppraisal)
		}
		vector[name] = int(i)
	}
	return vector, nil
}

// tiers are the statuses from best to worst.
func tiers() []string { return []string{"none", "affirming", "warning", "contraindicated"} }

// tierOf follows AR4SI section 2.3.2: the ranges nest, the innermost counts.
func tierOf(v int) int {
	switch {
	case v >= -1 && v <= 1:
		return 0
	case v >= -32 && v <= 31:
		return 1
	case v >= -96 && v <= 95:
		return 2
	}
	return 3
}

// statusOf is the worst tier in the vector.
func statusOf(vector map[string]int) string {
	worst := 0
	for _, v := range vector {
		worst = max(worst, tierOf(v))
	}
	return tiers()[worst]
}

// readExtensions takes the optional rule extensions: further members of the
// submodule. They may not replace what the service itself says.
func readExtensions(ctx context.Context, p *policy.Policy, e policy.Eval) (map[string]any, error) {
	raw, ok, err := p.Value(ctx, "extensions", e)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAppraisal, err)
	}
	if !ok {
		return nil, nil
	}
	list, ok := raw.([]any)
	if !ok || len(list) > maxReasons {
		return nil, fmt.Errorf("extensions is no list of at most %d: %w", maxReasons, ErrAppraisal)
	}
	ext := map[string]any{}
	for _, item := range list {
		m, _ := item.(map[string]any)
		name, _ := m["name"].(string)
		if name == "" || slices.Contains(submodMembers(), name) {
			return nil, fmt.Errorf("extension has the name %q: %w", name, ErrAppraisal)
		}
		ext[name] = m["value"]
	}
	return ext, nil
}

// readReasons takes the optional rule reasons: sentences for the owner about
// what did not match. They decide nothing.
func readReasons(ctx context.Context, p *policy.Policy, e policy.Eval) ([]string, error) {
	raw, ok, err := p.Value(ctx, "reasons", e)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAppraisal, err)
	}
	list, isList := raw.([]any)
	if !ok || !isList {
		return nil, nil
	}
	var reasons []string
	for _, item := range list[:min(len(list), maxReasons)] {
		if s, ok := item.(string); ok {
			reasons = append(reasons, strings.ToValidUTF8(s[:min(len(s), maxReasonLen)], ""))
		}
	}
	return reasons, nil
}
