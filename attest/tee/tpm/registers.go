// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"

	"cocoon/attest/eventlog"
)

// Registers are a TPM's for an event log, by the number of the PCR.
type Registers struct{ *TPM }

var _ eventlog.Registers = Registers{}

// Alg returns SHA-256.
func (Registers) Alg() eventlog.Alg { return eventlog.SHA256 }

// Read returns a register.
func (r Registers) Read(ctx context.Context, register uint32) ([]byte, error) {
	return r.PCR(ctx, register)
}

// runtimePCR takes what is asked for in a register that cannot be extended. No
// firmware and no boot loader uses it, and unlike 16 and 23 nothing can set it
// back to zero.
const runtimePCR = 15

// MapPCR returns the register for a PCR's number: the same, but for 17 to 22,
// which belong to a dynamic root of trust and refuse everybody else. The
// configuration's default is one of them.
func MapPCR(pcr uint64) uint32 {
	if pcr >= 17 && pcr <= 22 {
		return runtimePCR
	}
	return uint32(pcr)
}
