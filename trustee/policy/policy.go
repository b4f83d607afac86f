// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package policy compiles and evaluates the Rego policies of the broker.
//
// Policy texts come from the operator and are trusted to decide, but not to
// reach out: only built-in functions without side effects exist, so a policy
// can neither open a connection nor read the host's environment. The input of
// an evaluation is made of what a guest claims and is not trusted. Every
// evaluation ends by a deadline.
package policy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"
)

const (
	// MaxText is the size of the largest policy, in bytes.
	MaxText = 1 << 20

	// evalTimeout ends an evaluation that does not come to a result.
	evalTimeout = 5 * time.Second

	lookupName = "query_reference_value"
)

// ErrBadPolicy is returned for a text that is no usable policy.
var ErrBadPolicy = errors.New("policy does not compile")

// Policy is one compiled module. It is safe for concurrent use.
type Policy struct {
	text     string
	compiler *ast.Compiler
}

// Eval says what one evaluation works on.
type Eval struct {
	// Input becomes the document `input`.
	Input any
	// Data becomes the base documents below `data`; nil means none.
	Data map[string]any
	// Lookup answers query_reference_value(name); nil answers null to all.
	Lookup func(name string) (any, bool)
}

// Compile checks text, which must be Rego v1 in package policy.
func Compile(text string) (*Policy, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("%d bytes of Rego, at most %d: %w", len(text), MaxText, ErrBadPolicy)
	}
	caps := capabilities()
	m, err := ast.ParseModuleWithOpts("policy.rego", text, ast.ParserOptions{Capabilities: caps, RegoVersion: ast.RegoV1})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadPolicy, err)
	}
	if m == nil {
		return nil, fmt.Errorf("empty module: %w", ErrBadPolicy)
	}
	if got := m.Package.Path.String(); got != "data.policy" {
		return nil, fmt.Errorf("package is %q, want package policy: %w", got, ErrBadPolicy)
	}
	c := ast.NewCompiler().WithCapabilities(caps)
	c.Compile(map[string]*ast.Module{"policy.rego": m})
	if c.Failed() {
		return nil, fmt.Errorf("%w: %w", ErrBadPolicy, c.Errors)
	}
	return &Policy{text: text, compiler: c}, nil
}

// Text returns what was compiled.
func (p *Policy) Text() string { return p.text }

// Digest returns the SHA-256 of the text in hex, for the audit log.
func (p *Policy) Digest() string {
	d := sha256.Sum256([]byte(p.text))
	return hex.EncodeToString(d[:])
}

// Value evaluates data.policy.<rule>. Undefined is reported by ok false.
func (p *Policy) Value(ctx context.Context, rule string, e Eval) (value any, ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, evalTimeout)
	defer cancel()
	value, ok, err = p.run(ctx, rule, e)
	if err != nil {
		return nil, false, fmt.Errorf("evaluate rule %q: %w", rule, err)
	}
	return value, ok, nil
}

func (p *Policy) run(ctx context.Context, rule string, e Eval) (any, bool, error) {
	ref := ast.Ref{ast.DefaultRootDocument, ast.StringTerm("policy"), ast.StringTerm(rule)}
	result := ast.VarTerm("result")
	body, err := p.compiler.QueryCompiler().Compile(ast.NewBody(ast.Equality.Expr(result, ast.NewTerm(ref))))
	if err != nil {
		return nil, false, err
	}
	input, err := ast.InterfaceToValue(e.Input)
	if err != nil {
		return nil, false, fmt.Errorf("convert input: %w", err)
	}
	data := e.Data
	if data == nil {
		data = map[string]any{}
	}
	store := inmem.NewFromObjectWithOpts(data, inmem.OptRoundTripOnWrite(true))
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		return nil, false, err
	}
	defer store.Abort(ctx, txn)
	return p.query(ctx, body, env{input: ast.NewTerm(input), store: store, txn: txn, lookup: e.Lookup})
}

type env struct {
	input  *ast.Term
	store  storage.Store
	txn    storage.Transaction
	lookup func(name string) (any, bool)
}

func (p *Policy) query(ctx context.Context, body ast.Body, e env) (any, bool, error) {
	stop := topdown.NewCancel()
	defer context.AfterFunc(ctx, stop.Cancel)()
	results, err := topdown.NewQuery(body).
		WithCompiler(p.compiler).
		WithStore(e.store).
		WithTransaction(e.txn).
		WithInput(e.input).
		WithCancel(stop).
		WithBuiltins(map[string]*topdown.Builtin{lookupName: lookupFunc(e.lookup)}).
		Run(ctx)
	if err != nil {
		return nil, false, err
	}
	if len(results) == 0 {
		return nil, false, nil
	}
	term, ok := results[0][ast.Var("result")]
	if !ok {
		return nil, false, errors.New("result is not bound")
	}
	v, err := ast.JSON(term.Value)
	return v, err == nil, err
}

func lookupDecl() *ast.Builtin {
	return &ast.Builtin{Name: lookupName, Decl: types.NewFunction(types.Args(types.S), types.A)}
}

// lookupFunc answers null for a name without a value, as the policies of the
// upstream attestation service expect.
func lookupFunc(lookup func(string) (any, bool)) *topdown.Builtin {
	call := func(_ topdown.BuiltinContext, args []*ast.Term, yield func(*ast.Term) error) error {
		name, ok := args[0].Value.(ast.String)
		if !ok {
			return fmt.Errorf("%s wants a string", lookupName)
		}
		if lookup == nil {
			return yield(ast.NullTerm())
		}
		v, found := lookup(string(name))
		if !found {
			return yield(ast.NullTerm())
		}
		val, err := ast.InterfaceToValue(v)
		if err != nil {
			return fmt.Errorf("reference value %q: %w", string(name), err)
		}
		return yield(ast.NewTerm(val))
	}
	return &topdown.Builtin{Decl: lookupDecl(), Func: call}
}

// capabilities are OPA's less every function that reaches outside of the
// evaluation: to the network, to the environment, or, by way of a reference
// within a JSON schema, to files. The clock stays, since policies may expire.
func capabilities() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	kept := make([]*ast.Builtin, 0, len(c.Builtins)+1)
	for _, b := range c.Builtins {
		if !reachesOut(b.Name) {
			kept = append(kept, b)
		}
	}
	c.Builtins = append(kept, lookupDecl())
	c.AllowNet = []string{}
	return c
}

func reachesOut(name string) bool {
	switch name {
	case "http.send", "net.lookup_ip_addr", "json.match_schema", "json.verify_schema",
		"opa.runtime", "rego.parse_module", "trace", "print", "internal.print":
		return true
	}
	return false
}
