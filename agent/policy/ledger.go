// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// maxPending bounds the changes whose handlers are still at work.
const maxPending = 256

var errTooManyPending = errors.New("too many requests that change the policy state are at work")

// takingAway are the rules that stay answerable when the state is
// inconsistent: they end things or wait for their end.
var takingAway = []string{
	"RemoveContainerRequest", "DestroySandboxRequest", "SignalProcessRequest",
	"WaitProcessRequest", "GetOOMEventRequest", "RemoveStaleVirtiofsShareMountsRequest",
}

// ledger is a policy in force with its state. The engine's turn guards it.
//
// A decision's changes are applied together with the decision, before the
// handler runs: two concurrent requests for the same slot can never both
// pass, and no lock has to be held while a handler pulls an image. When a
// handler fails its changes must vanish, though later decisions may have been
// based on them. So the ledger keeps, for each unsettled change and all that
// followed it, the request and the state before. Undoing a change goes back to
// that state and decides the later requests again, as if the failed one had
// never been asked. Where a later request would have been refused then, its
// effect is in the world without a basis: the ledger is inconsistent and from
// then on allows only what takes away.
//
// Requests that change no state are not decided again. They act on a container
// that exists, and that of a failed request does not.
type ledger struct {
	prog         *program
	limit        time.Duration
	allowFailing bool      // a denied or undefined request is allowed
	hidePrints   bool      // the host does not get what the policy prints
	anyLayers    bool      // a container's root may have layers that nothing checks
	pins         imagePins // of a generated policy's containers
	doc          document
	pending      []*change // in the order of their decisions; the first is unsettled
	inconsistent bool
}

// change is one decision that changed the state.
type change struct {
	rule    string
	input   ast.Value
	before  document
	settled bool // the handler succeeded
}

// newLedger starts p with an empty state and asks it once for its settings. These
// questions know nothing of the policy it replaces.
func newLedger(ctx context.Context, p *program, limit time.Duration) (*ledger, error) {
	doc, err := newDocument([]byte(emptyState))
	if err != nil {
		return nil, err
	}
	l := &ledger{prog: p, limit: limit, doc: doc}
	if l.pins, err = p.imagePins(ctx, l); err != nil {
		return nil, err
	}
	if l.allowFailing, err = l.setting(ctx, failingRule); err != nil {
		return nil, err
	}
	if l.hidePrints, err = l.setting(ctx, hideRule); err != nil {
		return nil, err
	}
	if l.anyLayers, err = l.setting(ctx, layersRule); err != nil {
		return nil, err
	}
	return l, nil
}

// setting asks for a rule about the policy as a whole; one that it lacks is false.
func (l *ledger) setting(ctx context.Context, rule string) (bool, error) {
	v, err := l.prog.decide(ctx, l.question(rule, ast.NewObject()))
	switch {
	case errors.Is(err, errUndefined):
		return false, nil
	case err != nil && ctx.Err() != nil:
		return false, fmt.Errorf("evaluate %s: %w", rule, err)
	case err != nil:
		return false, fmt.Errorf("%w: %s: %w", ErrBadPolicy, rule, err)
	}
	return v.allowed, nil
}

func (l *ledger) question(rule string, input ast.Value) evaluation {
	return evaluation{rule: rule, input: input, data: l.doc.store, limit: l.limit}
}

// decide answers one request and applies the changes of the answer. The change
// is nil when there are none; otherwise it must be settled.
func (l *ledger) decide(ctx context.Context, rule string, input ast.Value) (verdict, *change, error) {
	if l.inconsistent && !slices.Contains(takingAway, rule) {
		return verdict{reason: "the policy state is inconsistent, only removal is possible"}, nil, nil
	}
	v, err := l.prog.decide(ctx, l.question(rule, input))
	if l.mayFail(v, err) {
		return verdict{allowed: true, prints: v.prints}, nil, nil
	}
	if err == nil && v.allowed && rule == createRule && !l.allowFailing {
		if v.reason = l.wrongImage(input, v.ops); v.reason != "" {
			v.allowed, v.ops = false, nil
		}
	}
	if err != nil || !v.allowed || len(v.ops) == 0 || l.inconsistent {
		return v, nil, err
	}
	if len(l.pending) >= maxPending {
		return v, nil, errTooManyPending
	}
	c, err := l.record(v, &change{rule: rule, input: input})
	return v, c, err
}

// mayFail says whether a request without a yes is allowed in spite of it.
func (l *ledger) mayFail(v verdict, err error) bool {
	return l.allowFailing && (errors.Is(err, errUndefined) || err == nil && !v.allowed)
}

func (l *ledger) record(v verdict, c *change) (*change, error) {
	after, err := l.doc.apply(v.ops)
	if err != nil {
		return nil, err
	}
	c.before, l.doc = l.doc, after
	l.pending = append(l.pending, c)
	return c, nil
}

// commit makes c's changes final.
func (l *ledger) commit(c *change) {
	c.settled = true
	l.trim()
}

// rollback undoes c and decides anew what followed it. It reports an error if
// that left the state inconsistent.
func (l *ledger) rollback(ctx context.Context, c *change) error {
	i := slices.Index(l.pending, c)
	if i < 0 || l.inconsistent {
		return nil // decided before the state became inconsistent: nothing is left to undo
	}
	later := slices.Clone(l.pending[i+1:])
	l.pending, l.doc = slices.Delete(l.pending, i, len(l.pending)), c.before
	for _, n := range later {
		if err := l.repeat(ctx, n); err != nil {
			l.inconsistent, l.pending = true, nil
			return fmt.Errorf("decide %s again after an undone %s: %w", n.rule, c.rule, err)
		}
	}
	l.trim()
	return nil
}

func (l *ledger) repeat(ctx context.Context, c *change) error {
	v, err := l.prog.decide(ctx, l.question(c.rule, c.input))
	switch {
	case l.mayFail(v, err):
		v.ops = nil
	case err != nil:
		return err
	case !v.allowed:
		return errors.New("it is refused without the undone change")
	case c.rule == createRule && !l.allowFailing && l.wrongImage(c.input, v.ops) != "":
		return errors.New("its image is refused without the undone change")
	}
	// Kept even without changes: its handler may still be at work, and fail.
	_, err = l.record(v, c)
	return err
}

// trim forgets the settled changes that nothing unsettled precedes.
func (l *ledger) trim() {
	i := slices.IndexFunc(l.pending, func(c *change) bool { return !c.settled })
	if i < 0 {
		i = len(l.pending)
	}
	l.pending = slices.Delete(l.pending, 0, i)
}
