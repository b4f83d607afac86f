// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Limits on a policy text, those of the upstream agent's engine.
const (
	maxPolicyBytes = 16 << 20
	maxPolicyLines = 200_000
	maxPolicyLine  = 64 << 10
)

const (
	policyPackage = "agent_policy"
	failingRule   = "AllowRequestsFailingPolicy"
	hideRule      = "HidePrintsFromHost"
	layersRule    = "AllowUncheckedLayers"
	setPolicyRule = "SetPolicyRequest"
	resultVar     = ast.Var("result")
)

// program is a compiled policy with one prepared query per rule. It is
// immutable.
type program struct {
	compiler *ast.Compiler
	queries  map[string]ast.Body
	digest   string // SHA-256 of the text, hexadecimal
}

// compile parses and compiles a policy text and prepares a query for each of
// rules. Its errors wrap ErrBadPolicy.
func compile(text string, rules []string) (*program, error) {
	if err := checkText(text); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadPolicy, err)
	}
	caps := capabilities()
	mod, err := parse(text, caps)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadPolicy, mistakes(err))
	}
	if want := ast.MustParseRef("data." + policyPackage); !mod.Package.Path.Equal(want) {
		return nil, fmt.Errorf("%w: package is %s, want %s", ErrBadPolicy, mod.Package.Path, want)
	}
	c := ast.NewCompiler().WithCapabilities(caps).WithEnablePrintStatements(true)
	if c.Compile(map[string]*ast.Module{policyPackage: mod}); c.Failed() {
		return nil, fmt.Errorf("%w: %w", ErrBadPolicy, mistakes(c.Errors))
	}
	sum := sha256.Sum256([]byte(text))
	p := &program{compiler: c, queries: make(map[string]ast.Body), digest: hex.EncodeToString(sum[:])}
	for _, rule := range append([]string{failingRule, hideRule, layersRule, dataRule}, rules...) {
		if p.queries[rule], err = p.prepare(rule); err != nil {
			return nil, fmt.Errorf("%w: rule %s: %w", ErrBadPolicy, rule, err)
		}
	}
	return p, nil
}

func (p *program) prepare(rule string) (ast.Body, error) {
	body, err := ast.ParseBody(fmt.Sprintf("%s = data.%s.%s", resultVar, policyPackage, rule))
	if err != nil {
		return nil, err
	}
	return p.compiler.QueryCompiler().Compile(body)
}

func checkText(text string) error {
	if len(text) > maxPolicyBytes {
		return fmt.Errorf("text has %d bytes, more than %d", len(text), maxPolicyBytes)
	}
	lines := 0
	for line := range strings.Lines(text) {
		lines++
		if lines > maxPolicyLines {
			return fmt.Errorf("text has more than %d lines", maxPolicyLines)
		}
		if len(line) > maxPolicyLine {
			return fmt.Errorf("line %d has %d bytes, more than %d", lines, len(line), maxPolicyLine)
		}
	}
	return nil
}

// parse reads text as Rego v1, and as Rego v0 if that fails: policies written
// by hand before v1 have rules without "if". If both fail, the v1 error is the
// one that helps.
func parse(text string, caps *ast.Capabilities) (*ast.Module, error) {
	mod, errV1 := parseAs(text, caps, ast.RegoV1)
	if errV1 == nil {
		return mod, nil
	}
	if mod, err := parseAs(text, caps, ast.RegoV0); err == nil {
		return mod, nil
	}
	return nil, errV1
}

func parseAs(text string, caps *ast.Capabilities, v ast.RegoVersion) (*ast.Module, error) {
	mod, err := ast.ParseModuleWithOpts(policyPackage, text, ast.ParserOptions{
		Capabilities: caps,
		RegoVersion:  v,
	})
	if err == nil && mod == nil {
		return nil, fmt.Errorf("empty text")
	}
	return mod, err
}
