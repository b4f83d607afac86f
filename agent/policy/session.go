// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"google.golang.org/protobuf/proto"
)

// Session asks a policy about requests one after the other, as a guest would,
// with nobody to carry them out: each change of the state is final. It is for
// an owner who writes a policy. It is not safe for concurrent use.
type Session struct{ ledger *ledger }

// Report is what a policy said about one request. Environment values and
// payloads of the request are removed from all texts.
type Report struct {
	// Rule is the rule that was asked.
	Rule string `json:"rule"`
	// Allowed says whether the request would be carried out.
	Allowed bool `json:"allowed"`
	// Reason is why the engine itself refused, or "".
	Reason string `json:"reason,omitempty"`
	// Failed are the expressions that did not hold, the one that came closest
	// to a yes first. It is empty for an allowed request.
	Failed []Failure `json:"failed,omitempty"`
	// Prints are the policy's own, as "agent_policy:<line>: <text>".
	Prints []string `json:"prints,omitempty"`
}

// ErrNoRule is returned for a request that no method of the agent takes.
var ErrNoRule = errors.New("no such request")

// NewSession compiles a policy text and starts with an empty state. Errors that
// the text causes wrap ErrBadPolicy.
func NewSession(ctx context.Context, text string) (*Session, error) {
	p, err := compile(text, New(Config{}).ruleNames())
	if err != nil {
		return nil, err
	}
	l, err := newLedger(ctx, p, defaultEvalLimit)
	if err != nil {
		return nil, err
	}
	return &Session{ledger: l}, nil
}

// Ask puts a request to the policy as the guest's agent does.
func (s *Session) Ask(ctx context.Context, req proto.Message) (Report, error) {
	input, err := encode(req)
	if err != nil {
		return Report{}, err
	}
	shown, secrets, err := encodeRedacted(req)
	if err != nil {
		return Report{}, err
	}
	return s.ask(ctx, string(req.ProtoReflect().Descriptor().Name()), question{input, shown, secrets})
}

// AskInput puts a request to the policy that is in the form in which rules see
// it, as upstream's agent logs it. Nothing is removed from what the report shows:
// in that form nobody can tell what is secret.
func (s *Session) AskInput(ctx context.Context, rule string, input []byte) (Report, error) {
	v, err := ast.ValueFromReader(bytes.NewReader(input))
	if err != nil {
		return Report{}, fmt.Errorf("decode the input of %s: %w", rule, err)
	}
	return s.ask(ctx, rule, question{input: v, shown: v})
}

// question is a request in the form that rules see, and in that which may be
// shown.
type question struct {
	input, shown ast.Value
	secrets      []string
}

func (s *Session) ask(ctx context.Context, rule string, q question) (Report, error) {
	if _, ok := s.ledger.prog.queries[rule]; !ok || slices.Contains([]string{failingRule, hideRule, dataRule}, rule) {
		return Report{}, fmt.Errorf("%q: %w", rule, ErrNoRule)
	}
	r := Report{Rule: rule}
	asked := s.ledger.question(rule, q.input)
	v, change, err := s.ledger.decide(ctx, rule, q.input)
	r.Prints = hideSecrets(v.prints, q.secrets)
	r.Reason = v.reason
	switch {
	case err != nil && ctx.Err() != nil:
		return Report{}, err
	case err != nil:
		r.Reason = err.Error()
	case v.allowed:
		r.Allowed = true
		if change != nil {
			s.ledger.commit(change)
		}
		return r, nil
	}
	r.Failed, err = s.ledger.prog.explain(ctx, asked, q.shown, q.secrets)
	return r, err
}
