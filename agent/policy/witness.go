// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

const (
	// maxFailures bounds the places that one report names.
	maxFailures = 5

	// maxReportText bounds each text of a report, in bytes.
	maxReportText = 256

	// maxSteps bounds the evaluation steps that are watched for one report, and
	// with them its memory, some 100 bytes each. What a policy fails on after
	// that many is not found.
	maxSteps = 256 << 10
)

// Failure is one expression of a policy that did not hold for a request. Each
// text is cut to 256 bytes.
type Failure struct {
	// Line is where the expression is in the policy text.
	Line int `json:"line"`
	// Expression is how it is written there.
	Expression string `json:"expression"`
	// Field is the part of the request that was compared, such as
	// "OCI.Process.Args[2]"; "" if it was no comparison with a part.
	Field string `json:"field,omitempty"`
	// Wanted and Got are the values of a comparison as Rego writes them. For
	// an "in" or a function they are what the part was looked for in.
	Wanted string `json:"wanted,omitempty"`
	Got    string `json:"got,omitempty"`
}

// witness watches an evaluation and remembers the expressions that failed
// after the most had held. A rule with several definitions, or one that goes
// through a list of containers, fails in many places; the one that got
// furthest is the one that the request was meant for.
type witness struct {
	input  ast.Value            // what reports show of the request: redacted
	hide   func(string) string  // removes its secrets from a text
	parent map[uint64]uint64    // query by the query that it was called from
	from   map[uint64]int       // and the step at which it was
	step   map[uint64]int       // of the latest evaluation, by query
	at     map[uint64]*ast.Expr // under evaluation, by query
	parts  map[ast.Var]ast.Ref  // what part of the request a variable stands for
	last   uint64               // query of the latest failure
	best   []ranked
	steps  int
	limit  int // of steps
}

type ranked struct {
	Failure
	progress []int // index of the expression in each query, the outermost first
}

// newWitness returns a witness that shows parts of the request as they are in
// shown, and removes secrets from what else it shows.
func newWitness(shown ast.Value, secrets []string) *witness {
	hide := func(text string) string { return hideSecrets([]string{text}, secrets)[0] }
	return &witness{input: shown, hide: hide, limit: maxSteps, parent: map[uint64]uint64{}, from: map[uint64]int{}, step: map[uint64]int{}, at: map[uint64]*ast.Expr{}, parts: map[ast.Var]ast.Ref{}}
}

// Enabled implements topdown.QueryTracer.
func (w *witness) Enabled() bool { return true }

// Config implements topdown.QueryTracer.
func (w *witness) Config() topdown.TraceConfig { return topdown.TraceConfig{PlugLocalVars: true} }

// TraceEvent implements topdown.QueryTracer.
func (w *witness) TraceEvent(e topdown.Event) {
	if w.steps++; w.steps > w.limit {
		return
	}
	switch e.Op {
	case topdown.EnterOp:
		w.parent[e.QueryID], w.from[e.QueryID] = e.ParentID, w.step[e.ParentID]
		if r, ok := e.Node.(*ast.Rule); ok {
			w.enter(r, w.at[e.ParentID])
		}
	case topdown.EvalOp, topdown.RedoOp:
		if x, ok := e.Node.(*ast.Expr); ok {
			w.at[e.QueryID], w.step[e.QueryID] = x, w.steps
			w.note(x, e.Locals)
		}
	case topdown.FailOp:
		if x, ok := e.Node.(*ast.Expr); ok {
			w.fail(e, x)
		}
	}
}

// enter remembers what the parameters of a function stand for. The compiler
// gives every variable of a policy a name of its own.
func (w *witness) enter(r *ast.Rule, call *ast.Expr) {
	if call == nil || !call.IsCall() {
		return
	}
	for i, arg := range r.Head.Args {
		if name, ok := arg.Value.(ast.Var); ok && i < len(call.Operands()) {
			w.bind(name, call.Operand(i))
		}
	}
}

// note remembers which part of the request a variable will stand for after an
// expression. A variable that has a value already is only compared.
func (w *witness) note(x *ast.Expr, locals *ast.ValueMap) {
	if every, ok := x.Terms.(*ast.Every); ok {
		if part, is := w.part(every.Domain); is && every.Key != nil {
			if name, isVar := every.Value.Value.(ast.Var); isVar {
				w.parts[name] = append(slices.Clip(part), every.Key)
			}
		}
		return
	}
	if !x.IsEquality() && !x.IsAssignment() {
		return
	}
	for i, other := range []int{1, 0} {
		name, isVar := x.Operand(i).Value.(ast.Var)
		if isVar && locals.Get(name) == nil {
			w.bind(name, x.Operand(other))
			return
		}
	}
}

func (w *witness) bind(name ast.Var, t *ast.Term) {
	if part, is := w.part(t); is {
		w.parts[name] = part
	} else {
		delete(w.parts, name)
	}
}

// part returns the reference into the request that a term is, directly or
// through variables.
func (w *witness) part(t *ast.Term) (ast.Ref, bool) {
	switch v := t.Value.(type) {
	case ast.Var:
		ref, ok := w.parts[v]
		return ref, ok
	case ast.Ref:
		if v[0].Equal(ast.InputRootDocument) {
			return v, true
		}
		head, isVar := v[0].Value.(ast.Var)
		if base, ok := w.parts[head]; isVar && ok {
			return append(slices.Clip(base), v[1:]...), true
		}
	}
	return nil, false
}

// fail remembers a failure unless it is only the consequence of the latest one,
// in a rule or function that the expression called.
func (w *witness) fail(e topdown.Event, x *ast.Expr) {
	w.at[e.QueryID] = x
	if _, isEvery := x.Terms.(*ast.Every); isEvery {
		return // what failed is an expression of its body
	}
	if w.consequence(e.QueryID) {
		w.last = e.QueryID
		return
	}
	w.last = e.QueryID
	r := ranked{progress: w.progress(e.QueryID)}
	if len(w.best) == maxFailures && slices.Compare(r.progress, w.best[len(w.best)-1].progress) <= 0 {
		return
	}
	r.Failure = w.describe(e, x)
	for i, b := range w.best {
		if b.Line == r.Line && b.Expression == r.Expression && b.Got == r.Got {
			if slices.Compare(r.progress, b.progress) <= 0 {
				return
			}
			w.best = slices.Delete(w.best, i, i+1)
			break
		}
	}
	i, _ := slices.BinarySearchFunc(w.best, r, func(a, b ranked) int { return slices.Compare(b.progress, a.progress) })
	w.best = slices.Insert(w.best, i, r)
	w.best = w.best[:min(len(w.best), maxFailures)]
}

// consequence reports whether the latest failure was in what query called at
// the step that fails now.
func (w *witness) consequence(query uint64) bool {
	for q := w.last; ; {
		up, ok := w.parent[q]
		if !ok || up == q {
			return false
		}
		if up == query {
			return w.from[q] == w.step[query]
		}
		q = up
	}
}

func (w *witness) progress(query uint64) []int {
	var steps []int
	for {
		step := 0
		if x := w.at[query]; x != nil {
			step = x.Index
		}
		steps = append(steps, step)
		up, ok := w.parent[query]
		if !ok || up == query {
			break
		}
		query = up
	}
	slices.Reverse(steps)
	return steps
}

func (w *witness) describe(e topdown.Event, x *ast.Expr) Failure {
	f := Failure{}
	if x.Location != nil {
		f.Line = x.Location.Row
		f.Expression = cut(strings.Join(strings.Fields(string(x.Location.Text)), " "), maxReportText)
	}
	if !x.IsCall() {
		return f
	}
	operands := x.Operands()
	if len(operands) < 2 {
		return f
	}
	for _, order := range [][2]int{{0, 1}, {1, 0}} {
		got, other := operands[order[0]], operands[order[1]]
		if part, is := w.part(got); is {
			f.Field = cut(w.hide(pathText(part, e.Locals)), maxReportText)
			f.Got, f.Wanted = w.valueText(e, got), w.valueText(e, other)
			return f
		}
	}
	return f
}

// pathText writes a reference into the request as "OCI.Process.Args[2]".
// Variables in it are replaced by their values where these are known.
func pathText(ref ast.Ref, locals *ast.ValueMap) string {
	var b strings.Builder
	for _, t := range ref[1:] {
		value := t.Value
		if name, isVar := value.(ast.Var); isVar {
			if known := locals.Get(name); known != nil {
				value = known
			}
		}
		switch value := value.(type) {
		case ast.String:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(string(value))
		case ast.Var:
			b.WriteString("[…]")
		default:
			b.WriteString("[" + value.String() + "]")
		}
	}
	return b.String()
}

// valueText writes the value that a term had, or "" if it is not known.
func (w *witness) valueText(e topdown.Event, t *ast.Term) string {
	value := t.Value
	if part, is := w.part(t); is {
		if value = w.follow(e, part); value == nil {
			value = w.local(e, t) // of an element whose index is not known
		}
	} else if ref, ok := value.(ast.Ref); ok {
		value = w.follow(e, ref)
	} else {
		value = w.local(e, t)
	}
	if value == nil || !value.IsGround() {
		return ""
	}
	return cut(w.hide(value.String()), maxReportText)
}

// local returns the value that a term has by itself or as a variable, or nil.
func (w *witness) local(e topdown.Event, t *ast.Term) ast.Value {
	switch v := t.Value.(type) {
	case ast.Var:
		return e.Locals.Get(v)
	case ast.Ref:
		return nil
	}
	return t.Value
}

// follow returns what a reference into the request or a variable leads to, or
// nil. What other rules of the policy say is not looked up.
func (w *witness) follow(e topdown.Event, ref ast.Ref) ast.Value {
	plugged := slices.Clone(ref)
	for i, t := range plugged {
		if name, isVar := t.Value.(ast.Var); isVar && i > 0 {
			known := e.Locals.Get(name)
			if known == nil {
				return nil
			}
			plugged[i] = ast.NewTerm(known)
		}
	}
	var from ast.Value
	if plugged[0].Equal(ast.InputRootDocument) {
		from = w.input
	} else if name, isVar := plugged[0].Value.(ast.Var); isVar {
		from = e.Locals.Get(name)
	}
	if from == nil {
		return nil
	}
	value, err := from.Find(plugged[1:])
	if err != nil {
		return nil // there is no such part
	}
	return value
}

// failures returns what was remembered, the furthest first.
func (w *witness) failures() []Failure {
	var list []Failure
	for _, r := range w.best {
		list = append(list, r.Failure)
	}
	return list
}
