// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/hex"
	"fmt"

	"cocoon/measurements/tdx"
)

// eventLog is a log that was replayed, or nil.
type eventLog struct{ *tdx.Replayed }

func replay(r *Reported) (*eventLog, error) {
	if len(r.Log) == 0 {
		return nil, nil
	}
	l, err := tdx.Replay(r.Log)
	if err != nil {
		return nil, fmt.Errorf("%w: event log: %w", ErrEvidence, err)
	}
	return &eventLog{l}, nil
}

// logged compares the registers that nothing but a log tells: that of the
// machine, and that of the attestation agent.
func (a *Answer) logged(r *Reported, log *eventLog) {
	for _, n := range []int{0, 3} {
		name := fmt.Sprintf("rtmr_%d", n)
		f := Finding{Register: name, Value: r.Registers[name], Verdict: Unchecked}
		a.Tried++
		switch {
		case n == 3 && f.Value == hex.EncodeToString(make([]byte, len(tdx.Register{}))):
			f.Verdict, f.Because = Expected, nil
		case log == nil:
			f.Suspects = []string{"it follows from an event log alone: --eventlog"}
		case f.Value == hex.EncodeToString(log.Values[n][:]):
			f.Verdict = Expected
			f.Suspects = []string{fmt.Sprintf("what the log's %d events say; nobody but the log says that they are good", len(log.Steps[n]))}
		default:
			f.Verdict, f.Suspects = Unknown, []string{"the event log is not the one of this guest"}
		}
		a.Findings = append(a.Findings, f)
	}
}

// first names the first event of a register's log that is not the predicted one.
func (l *eventLog) first(n int, b boot, of func(tdx.Boot) (tdx.Register, []tdx.Step, error)) []string {
	if l == nil {
		return nil
	}
	_, steps, err := of(b.Boot)
	if err != nil {
		return nil // find tells
	}
	at, differ := tdx.Differ(steps, l.Steps[n])
	switch {
	case !differ:
		return nil
	case at >= len(l.Steps[n]):
		return []string{fmt.Sprintf("the event log ends where %s is expected", steps[at].What)}
	case at >= len(steps):
		return []string{fmt.Sprintf("the event log goes on with %s", l.Steps[n][at].What)}
	}
	return []string{fmt.Sprintf("event %d of the log, %s, where %s is expected", at+1, l.Steps[n][at].What, steps[at].What)}
}
