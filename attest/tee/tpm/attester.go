// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"cocoon/attest/eventlog"
)

// AK is where the attestation key of a plain TPM lies, made beforehand.
const AK = 0x81010002

// nonceSize is how much of the report data a quote is about.
const nonceSize = 32

// Evidence is what a guest with a plain TPM hands in.
type Evidence struct {
	Quote struct {
		Signature []byte   `json:"signature"` // TPMT_SIGNATURE
		Message   []byte   `json:"message"`   // TPMS_ATTEST
		PCRs      []string `json:"pcrs"`      // hexadecimal
	} `json:"tpm_quote"`
	AKPublic []byte `json:"ak_public"` // SubjectPublicKeyInfo in DER
	// EventLog is absent if there is no log.
	EventLog []byte `json:"cc_eventlog,omitempty"`
}

// Attester makes the evidence of a plain TPM. It is safe for concurrent use.
type Attester struct {
	*TPM
	ak       uint32
	agentLog string
}

// NewAttester returns an attester that quotes with the persistent key ak.
// agentLog is the file with the entries of the attestation agent.
func NewAttester(t *TPM, ak uint32, agentLog string) *Attester {
	return &Attester{TPM: t, ak: ak, agentLog: agentLog}
}

// TEE returns "tpm".
func (a *Attester) TEE() string { return "tpm" }

// Evidence returns a quote about the first 32 bytes of reportData, or about
// reportData and zeros where it is shorter.
func (a *Attester) Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error) {
	nonce := make([]byte, nonceSize)
	copy(nonce, reportData)
	log, err := eventlog.OfAgent(a.agentLog)
	if err != nil {
		return nil, err
	}
	q, err := a.Quote(ctx, a.ak, nonce)
	if err != nil {
		return nil, err
	}
	e := Evidence{EventLog: log}
	if e.AKPublic, err = x509.MarshalPKIXPublicKey(q.Key); err != nil {
		return nil, fmt.Errorf("encode the TPM's key: %w", err)
	}
	e.Quote.Message = q.Message
	e.Quote.Signature = tpm2.Marshal(tpm2.TPMTSignature{
		SigAlg: tpm2.TPMAlgRSASSA,
		Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA, &tpm2.TPMSSignatureRSA{
			Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: q.Signature},
		}),
	})
	for _, v := range q.PCRs {
		e.Quote.PCRs = append(e.Quote.PCRs, hex.EncodeToString(v))
	}
	return json.Marshal(e)
}

// Registers returns the registers for an event log.
func (a *Attester) Registers() (eventlog.Registers, error) { return Registers{a.TPM}, nil }

// MapPCR returns the register for a PCR's number.
func (a *Attester) MapPCR(pcr uint64) uint32 { return MapPCR(pcr) }
