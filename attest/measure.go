// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"context"
	"errors"
	"fmt"

	"cocoon/attest/eventlog"
	"cocoon/internal/stage"
)

// RuntimeMeasurer is an Attester whose TEE has registers that a running guest
// can extend.
type RuntimeMeasurer interface {
	// Registers returns them, or why this guest cannot extend them.
	Registers() (eventlog.Registers, error)
	// MapPCR returns the measurement register index for a PCR's number.
	MapPCR(pcr uint64) uint32
}

// OpenEventLog opens the event log in dir if the configuration enables it and
// the TEE has registers. An entry that a crash has cut short is finished; a log
// that does not fit the registers is an error, since no evidence would hold.
func (a *Agent) OpenEventLog(ctx context.Context, dir string) error {
	if !a.cfg.EventLog.Enabled {
		return nil
	}
	t, ok := a.deps.Attester.(RuntimeMeasurer)
	if !ok {
		a.deps.Log.Warn("event log is enabled but not supported on this TEE, no measurement will be made", "tee", a.TEE())
		return nil
	}
	regs, err := t.Registers()
	if err != nil {
		a.deps.Log.Warn("event log is enabled but registers cannot be extended, no measurement will be made", "tee", a.TEE(), "error", err)
		return nil
	}
	if a.journal, err = eventlog.Open(ctx, dir, regs); err != nil {
		return stage.Errorf(stage.Evidence, "open the event log: %w", err)
	}
	return nil
}

// Measurement is the outcome of an ExtendRuntimeMeasurement that did not fail.
// The values are those of the wire.
type Measurement int

// The outcomes.
const (
	Measured     Measurement = 0 // register extended, event logged
	NotSupported Measurement = 1 // the TEE has no runtime registers
	NotEnabled   Measurement = 2 // the event log is off
)

// Event is a runtime measurement: who measured, what was done, and to what.
type Event struct {
	Domain, Operation, Content string
	Register                   *uint64 // PCR, nil means the configured one
}

// ExtendRuntimeMeasurement measures e. With the event log off it says so and
// looks no further.
func (a *Agent) ExtendRuntimeMeasurement(ctx context.Context, e Event) (Measurement, error) {
	if !a.cfg.EventLog.Enabled {
		return NotEnabled, nil
	}
	entry := eventlog.Entry{Domain: e.Domain, Operation: e.Operation, Content: e.Content}
	if err := entry.Check(); err != nil {
		return 0, err
	}
	pcr := a.cfg.EventLog.InitPCR
	if e.Register != nil {
		pcr = *e.Register
	}
	if pcr > maxPCR {
		return 0, fmt.Errorf("%w: there is no PCR %d", eventlog.ErrEntry, pcr)
	}
	t, ok := a.deps.Attester.(RuntimeMeasurer)
	if !ok || a.journal == nil {
		return NotSupported, nil
	}
	if err := a.journal.Measure(ctx, t.MapPCR(pcr), entry); err != nil {
		if errors.Is(err, eventlog.ErrEntry) {
			return 0, err
		}
		return 0, stage.Errorf(stage.Evidence, "measure %s %s: %w", e.Domain, e.Operation, err)
	}
	return Measured, nil
}
