// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/print"
)

// maxPrintBytes bounds what is kept of the prints of one evaluation.
const maxPrintBytes = 16 << 10

// verdict is what a rule said about a request.
type verdict struct {
	allowed bool
	ops     jsonpatch.Patch // state changes, only of an allowed request
	reason  string          // why the engine itself refused
	prints  []string        // "agent_policy:<line>: <text>"
}

// evaluation is one question to a policy.
type evaluation struct {
	rule  string
	input ast.Value
	data  storage.Store
	limit time.Duration
}

// decide evaluates a rule and reads its value as a verdict. The verdict holds
// the prints even if an error is returned. A rule without value gives
// errUndefined.
func (p *program) decide(ctx context.Context, ev evaluation) (verdict, error) {
	var out printer
	value, err := p.eval(ctx, ev, &out, nil)
	v := verdict{prints: out.lines}
	if err != nil {
		return v, err
	}
	v.allowed, v.ops, err = readVerdict(value)
	return v, err
}

// explain evaluates a rule once more and returns the expressions that failed.
// It takes several times as long as the decision.
func (p *program) explain(ctx context.Context, ev evaluation, shown ast.Value, secrets []string) ([]Failure, error) {
	w := newWitness(shown, secrets)
	ev.limit *= explainFactor
	if _, err := p.eval(ctx, ev, &printer{}, w); err != nil && !errors.Is(err, errUndefined) {
		return nil, fmt.Errorf("explain: %w", err)
	}
	return w.failures(), nil
}

// explainFactor is how much longer an evaluation may take that is watched.
const explainFactor = 4

func (p *program) eval(ctx context.Context, ev evaluation, hook print.Hook, watch topdown.QueryTracer) (value ast.Value, err error) {
	body, ok := p.queries[ev.rule]
	if !ok {
		return nil, fmt.Errorf("rule %q is not an entry point", ev.rule)
	}
	ctx, stop := context.WithTimeoutCause(ctx, ev.limit, fmt.Errorf("evaluation took longer than %v", ev.limit))
	defer stop()
	cancel := topdown.NewCancel()
	defer context.AfterFunc(ctx, cancel.Cancel)()

	txn, err := ev.data.NewTransaction(ctx)
	if err != nil {
		return nil, fmt.Errorf("open policy state: %w", err)
	}
	defer ev.data.Abort(ctx, txn)
	q := topdown.NewQuery(body).
		WithCompiler(p.compiler).
		WithStore(ev.data).
		WithTransaction(txn).
		WithInput(ast.NewTerm(ev.input)).
		WithPrintHook(hook).
		WithCancel(cancel)
	if watch != nil {
		// With its indexes the engine skips rules that cannot hold, unseen.
		q = q.WithQueryTracer(watch).WithIndexing(false)
	}
	err = q.Iter(ctx, func(r topdown.QueryResult) error {
		value = r[resultVar].Value
		return nil
	})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return nil, cause
	}
	if err != nil {
		return nil, fmt.Errorf("evaluate policy: %w", err)
	}
	if value == nil {
		return nil, errUndefined
	}
	return value, nil
}

// readVerdict accepts a boolean, or an object with the boolean "allowed" and
// optionally the list "ops". Changes of a refused request are dropped.
func readVerdict(v ast.Value) (allowed bool, ops jsonpatch.Patch, err error) {
	switch v := v.(type) {
	case ast.Boolean:
		return bool(v), nil, nil
	case ast.Object:
		a := v.Get(ast.StringTerm("allowed"))
		if a == nil {
			return false, nil, errors.New(`the rule's object has no member "allowed"`)
		}
		b, ok := a.Value.(ast.Boolean)
		if !ok {
			return false, nil, fmt.Errorf(`the rule's member "allowed" is a %s, want a boolean`, ast.ValueName(a.Value))
		}
		o := v.Get(ast.StringTerm("ops"))
		if !bool(b) || o == nil {
			return bool(b), nil, nil
		}
		ops, err = readOps(o.Value)
		return err == nil, ops, err
	default:
		return false, nil, fmt.Errorf("the rule's value is a %s, want a boolean or an object", ast.ValueName(v))
	}
}

func readOps(v ast.Value) (jsonpatch.Patch, error) {
	if _, ok := v.(*ast.Array); !ok {
		return nil, fmt.Errorf(`the rule's member "ops" is a %s, want an array`, ast.ValueName(v))
	}
	x, err := ast.JSON(v)
	if err != nil {
		return nil, fmt.Errorf("read state changes: %w", err)
	}
	raw, err := json.Marshal(x)
	if err != nil {
		return nil, fmt.Errorf("read state changes: %w", err)
	}
	return parseOps(raw)
}

// printer collects the last prints of an evaluation: a policy that looks for a
// container prints of each one, and that of the request is seldom the first.
type printer struct {
	lines []string
	bytes int
}

// Print implements print.Hook.
func (p *printer) Print(c print.Context, text string) error {
	row := 0
	if c.Location != nil {
		row = c.Location.Row
	}
	line := fmt.Sprintf("%s:%d: %s", policyPackage, row, text)
	line = cut(line, maxPrintBytes)
	p.lines = append(p.lines, line)
	p.bytes += len(line)
	drop := 0
	for ; p.bytes > maxPrintBytes; drop++ {
		p.bytes -= len(p.lines[drop])
	}
	p.lines = p.lines[drop:]
	return nil
}
