// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tdx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"cocoon/attest/eventlog"
	"cocoon/attest/tee/tsm"
)

// firmwareLog is the log of the firmware, as the kernel shows it.
const firmwareLog = "/sys/firmware/acpi/tables/data/CCEL"

// Attester makes the evidence of a TDX guest. It is safe for concurrent use.
type Attester struct {
	quotes   tsm.Reporter
	machine  machine
	firmware string // file with the firmware's log
	agent    string // file with the attestation agent's
}

// New returns an attester on this machine. agentLog is the file with the
// entries of the attestation agent, which go into evidence.
func New(agentLog string) *Attester {
	return &Attester{quotes: tsm.Reporter{Dir: tsm.Dir}, machine: newMachine(), firmware: firmwareLog, agent: agentLog}
}

// TEE returns "tdx".
func (a *Attester) TEE() string { return "tdx" }

// Evidence is what the guest hands in.
type Evidence struct {
	// EventLog is null if there is no log.
	EventLog []byte `json:"cc_eventlog"`
	Quote    []byte `json:"quote"`
}

// Evidence returns a quote about reportData, of at most 64 bytes, which are
// padded with zeros, and the logs of what its registers hold.
func (a *Attester) Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error) {
	if len(reportData) > DataSize {
		return nil, fmt.Errorf("TDX report data of %d bytes, at most %d", len(reportData), DataSize)
	}
	var data [DataSize]byte
	copy(data[:], reportData)
	log, err := a.log()
	if err != nil {
		return nil, err
	}
	r, err := a.quotes.Get(ctx, "tdx_guest", data[:])
	if err != nil {
		return nil, fmt.Errorf("get a quote: %w", err)
	}
	q, err := ParseQuote(r.Out)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(q.ReportData(), data[:]) {
		return nil, fmt.Errorf("%w about this request: its report data is another", ErrQuote)
	}
	return json.Marshal(Evidence{EventLog: log, Quote: r.Out})
}

// log joins both logs. A firmware's log that cannot be read is left out with
// the agent's: a verifier would refuse the whole, and without a log it looks at
// the registers alone.
func (a *Attester) log() ([]byte, error) {
	firmware, err := eventlog.ReadFile(a.firmware)
	if err != nil {
		return nil, fmt.Errorf("read the firmware's event log: %w", err)
	}
	agent, err := eventlog.ReadFile(a.agent)
	if err != nil {
		return nil, fmt.Errorf("read the event log: %w", err)
	}
	all, err := eventlog.Join(firmware, agent)
	if errors.Is(err, eventlog.ErrLog) {
		return nil, nil
	}
	return all, err
}

// InitDataRegister returns MRCONFIGID.
func (a *Attester) InitDataRegister(context.Context) ([]byte, error) { return a.machine.configID() }

// Registers returns the runtime registers, or ErrUnsupported if the kernel is
// too old to extend them.
func (a *Attester) Registers() (eventlog.Registers, error) {
	if !a.machine.extendable() {
		return nil, fmt.Errorf("extend RTMRs: %w", ErrUnsupported)
	}
	return a.machine, nil
}

// MapPCR returns the measurement register index for a PCR's number, as UEFI
// maps them.
func (a *Attester) MapPCR(pcr uint64) uint32 {
	switch {
	case pcr == 1 || pcr == 7:
		return 1
	case pcr >= 2 && pcr <= 6:
		return 2
	case pcr >= 8 && pcr <= 15:
		return 3
	}
	return 4
}
