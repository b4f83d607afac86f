// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cocoon/attest/eventlog"
	"cocoon/attest/tee/sample"
	"cocoon/internal/stage"
)

// measuringTEE is a TEE with one register for each PCR.
type measuringTEE struct {
	sample.Attester
	values map[uint32][]byte
	err    error
}

func (m *measuringTEE) Registers() (eventlog.Registers, error) { return m, m.err }
func (m *measuringTEE) MapPCR(pcr uint64) uint32               { return uint32(pcr) }
func (m *measuringTEE) Alg() eventlog.Alg                      { return eventlog.SHA256 }

func (m *measuringTEE) Read(_ context.Context, n uint32) ([]byte, error) {
	if v, ok := m.values[n]; ok {
		return v, nil
	}
	return make([]byte, 32), nil
}

func (m *measuringTEE) Extend(ctx context.Context, n uint32, digest []byte) error {
	old, err := m.Read(ctx, n)
	m.values[n] = eventlog.SHA256.Sum(old, digest)
	return err
}

func TestAMeasurementIsExtendedAndLogged(t *testing.T) {
	t.Parallel()
	tee, dir := &measuringTEE{Attester: sample.New(), values: map[uint32][]byte{}}, t.TempDir()
	a := newAgent(t, Config{EventLog: EventLog{Enabled: true, InitPCR: 23}}, Deps{Attester: tee})
	if err := a.OpenEventLog(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	other, far := uint64(16), uint64(24)
	for _, e := range []Event{{"d", "o", "first", nil}, {"d", "o", "second", &other}} {
		if m, err := a.ExtendRuntimeMeasurement(t.Context(), e); err != nil || m != Measured {
			t.Fatalf("%v: %v, %v", e, m, err)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, eventlog.File))
	if err != nil {
		t.Fatal(err)
	}
	l, err := eventlog.Parse(append(eventlog.Header(), b...))
	if err != nil || len(l.Events) != 2 || l.Events[0].Register != 23 || l.Events[1].Register != 16 {
		t.Fatalf("%+v (%v)", l, err)
	}
	if _, err := a.ExtendRuntimeMeasurement(t.Context(), Event{"d", "o", "", &far}); !errors.Is(err, eventlog.ErrEntry) {
		t.Errorf("PCR 24: %v", err)
	}
	if _, err := a.Evidence(t.Context(), []byte("x")); err != nil {
		t.Error(err)
	}
}

func TestALogThatDoesNotFitStopsTheAgent(t *testing.T) {
	t.Parallel()
	tee, dir := &measuringTEE{Attester: sample.New(), values: map[uint32][]byte{}}, t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ".wal_event_entry"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := newAgent(t, Config{EventLog: EventLog{Enabled: true, InitPCR: 23}}, Deps{Attester: tee})
	if err := a.OpenEventLog(t.Context(), dir); !errors.Is(err, eventlog.ErrCorrupt) || stage.Of(err) != stage.Evidence {
		t.Error(err)
	}
	tee.err = errors.New("too old")
	if err := a.OpenEventLog(t.Context(), dir); err != nil {
		t.Error(err)
	}
	if m, err := a.ExtendRuntimeMeasurement(t.Context(), Event{"d", "o", "", nil}); err != nil || m != NotSupported {
		t.Errorf("a kernel without extension: %v, %v", m, err)
	}
}
