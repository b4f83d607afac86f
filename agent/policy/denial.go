// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// minSecret is the length from which an environment value is looked for in
// prints on its own. Shorter ones are found as KEY=value only: replacing each
// "1" or "true" would leave nothing to read.
const minSecret = 6

// denial is a request that the policy refused.
type denial struct {
	rule   string
	req    proto.Message
	reason string   // of the engine itself
	prints []string // of the policy
	hidden bool     // the prints are not for the host
	// explain finds the expressions that failed; nil if the engine refused.
	explain func(shown ast.Value, secrets []string) ([]Failure, error)
}

// refuse reports d to the owner and returns the error for the host, of the
// form "<Rule> is blocked by policy: <prints>".
func (e *Engine) refuse(ctx context.Context, d denial) error {
	input, secrets, err := encodeRedacted(d.req)
	if err != nil {
		return status.Errorf(codeOf(err), "%s: %v", d.rule, err)
	}
	prints := hideSecrets(d.prints, secrets)
	if e.limiter.Allow() {
		e.cfg.Owner.LogAttrs(ctx, slog.LevelWarn, "request denied by policy",
			slog.String("rule", d.rule), slog.Any("failed", e.failed(d, input, secrets)), slog.String("reason", d.reason),
			slog.Any("prints", prints), slog.Any("request", asJSON(input)))
		e.cfg.Log.Warn("request denied by policy", "rule", d.rule)
	}
	text := d.rule + " is blocked by policy: "
	switch {
	case d.reason != "":
		text += d.reason
	case d.hidden && len(prints) > 0:
		text += "the reason is in the owner's log"
	default:
		text += strings.Join(prints, " ")
	}
	return status.Error(codes.PermissionDenied, cut(text, e.cfg.MaxDenial))
}

// failed returns the expressions for which the policy refused, or why they are
// not known.
func (e *Engine) failed(d denial, shown ast.Value, secrets []string) any {
	if d.explain == nil || d.reason != "" {
		return []Failure{}
	}
	list, err := d.explain(shown, secrets)
	if err != nil {
		return err.Error()
	}
	return list
}

// hideSecrets removes environment entries and values of the request from
// prints. Prints show strings as they are and inside of composite values
// quoted, so both forms are replaced.
func hideSecrets(prints, secrets []string) []string {
	shown := map[string]string{}
	for _, entry := range secrets {
		name, value, ok := strings.Cut(entry, "=")
		if !ok {
			value = entry
		}
		if ok && value != "" {
			shown[entry] = name + "=" + redacted
			shown[quotedInside(entry)] = quotedInside(name) + "=" + redacted
		}
		if len(value) >= minSecret {
			shown[value], shown[quotedInside(value)] = redacted, redacted
		}
	}
	var pairs []string
	for _, s := range sortedByLength(slices.Collect(maps.Keys(shown))) {
		pairs = append(pairs, s, shown[s])
	}
	r := strings.NewReplacer(pairs...)
	out := make([]string, len(prints))
	for i, p := range prints {
		out[i] = strings.ToValidUTF8(r.Replace(p), "\ufffd")
	}
	return out
}

func quotedInside(s string) string {
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

// asJSON gives a JSON handler the value itself instead of its text.
func asJSON(v ast.Value) any {
	x, err := ast.JSON(v)
	if err != nil {
		return "unprintable: " + err.Error()
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(x); err != nil {
		return "unprintable: " + err.Error()
	}
	return json.RawMessage(b.Bytes())
}

// cut shortens s to at most limit bytes without splitting a character.
func cut(s string, limit int) string {
	const mark = " [cut]"
	if len(s) <= limit {
		return s
	}
	n := max(limit-len(mark), 0)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + mark[:min(len(mark), limit-n)]
}
