// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tdx

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"cocoon/attest/eventlog"
)

// ErrMismatch is wrapped by errors about registers that are not what they should
// be.
var ErrMismatch = errors.New("registers differ")

// runtime is how many registers RTMR0 to RTMR3 are.
const runtime = 4

// Replayed is what a log comes to: the values of RTMR0 to RTMR3, and the events
// that lead there.
type Replayed struct {
	Values [runtime]Register
	Steps  [runtime][]Step
}

// Replay reads the log of the table CCEL, with or without the entries of the
// attestation agent behind it. An event of another register than RTMR0 to RTMR3
// is an error, since nothing could confirm it. Errors wrap eventlog.ErrLog.
func Replay(log []byte) (*Replayed, error) {
	l, err := eventlog.Parse(log)
	if err != nil {
		return nil, err
	}
	if err := l.Only(1, runtime); err != nil {
		return nil, err
	}
	var all [runtime]register
	for n, e := range l.Events {
		if e.Type == eventlog.EvNoAction {
			continue
		}
		digest := e.Sum(eventlog.SHA384)
		if digest == nil {
			return nil, fmt.Errorf("%w: event %d has no digest by SHA-384", eventlog.ErrLog, n)
		}
		all[e.Register-1].extend("", describe(e), Register(digest))
	}
	r := &Replayed{}
	for n := range all {
		r.Values[n], r.Steps[n] = all[n].value, all[n].steps
	}
	return r, nil
}

// describe says what an event is of, as far as its data can be read.
func describe(e eventlog.Event) string {
	name, ok := e.TypeName()
	if !ok {
		return fmt.Sprintf("event of type %#x", e.Type)
	}
	claims, err := (&eventlog.Log{Events: []eventlog.Event{e}}).Claims()
	if err != nil {
		return name
	}
	claim, ok := claims[0].(map[string]any)
	if !ok {
		return name
	}
	details, ok := claim["details"].(map[string]any)
	if !ok {
		return name
	}
	for _, key := range []string{"string", "unicode_name"} {
		if text, ok := details[key].(string); ok && text != "" {
			return fmt.Sprintf("%s %q", name, text)
		}
	}
	if paths, ok := details["device_paths"].([]string); ok {
		return fmt.Sprintf("%s %q", name, strings.Join(paths, "/"))
	}
	return name
}

// Compare returns an error that wraps ErrMismatch and names the registers unless
// the log comes to those of a quote.
func (r *Replayed) Compare(quoted [runtime]Register) error {
	var all []error
	for n, v := range quoted {
		if v != r.Values[n] {
			all = append(all, fmt.Errorf("RTMR%d is %x, by the log %x: %w", n, v, r.Values[n], ErrMismatch))
		}
	}
	return errors.Join(all...)
}

// Differ returns the first place in which the events of two registers differ;
// false if there is none. It may be behind the end of the shorter one.
func Differ(a, b []Step) (int, bool) {
	for n := range min(len(a), len(b)) {
		if a[n].Digest != b[n].Digest {
			return n, true
		}
	}
	return min(len(a), len(b)), len(a) != len(b)
}

// Unknown returns those steps whose digest is of none of the events.
func Unknown(steps []Step, known []Event) []Step {
	return slices.DeleteFunc(slices.Clone(steps), func(s Step) bool {
		return slices.ContainsFunc(known, func(e Event) bool { return e.Digest == s.Digest })
	})
}
