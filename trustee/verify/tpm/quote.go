// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"cocoon/attest/eventlog"
	"cocoon/attest/tee/tpm"
	"cocoon/trustee/as"
)

const maxMessage = 1024

// CheckQuote checks signature, selection and values of a quote by its key, and
// returns the nonce that it is about.
func CheckQuote(q *tpm.Quote) (nonce []byte, err error) {
	sum := sha256.Sum256(q.Message)
	if err := rsa.VerifyPKCS1v15(q.Key, crypto.SHA256, sum[:], q.Signature); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	if len(q.Message) > maxMessage {
		return nil, fmt.Errorf("message of %d bytes", len(q.Message))
	}
	a, err := tpm2.Unmarshal[tpm2.TPMSAttest](q.Message)
	if err != nil {
		return nil, err
	}
	if a.Magic != tpm2.TPMGeneratedValue || a.Type != tpm2.TPMSTAttestQuote {
		return nil, errors.New("what is signed is no quote")
	}
	info, err := a.Attested.Quote()
	if err != nil {
		return nil, err
	}
	sel := info.PCRSelect.PCRSelections
	if len(sel) != 1 || sel[0].Hash != tpm2.TPMAlgSHA256 || !bytes.Equal(sel[0].PCRSelect, []byte{0xff, 0xff, 0xff}) {
		return nil, errors.New("it is not about all PCRs of the SHA-256 bank")
	}
	if len(q.PCRs) != tpm.PCRs {
		return nil, fmt.Errorf("%d PCRs, want %d", len(q.PCRs), tpm.PCRs)
	}
	h := sha256.New()
	for i, v := range q.PCRs {
		if len(v) != sha256.Size {
			return nil, fmt.Errorf("PCR %d has %d bytes", i, len(v))
		}
		h.Write(v) //nolint:errcheck // a hash does not fail
	}
	if !bytes.Equal(h.Sum(nil), info.PCRDigest.Buffer) {
		return nil, errors.New("the PCRs are not those that were signed")
	}
	return a.ExtraData.Buffer, nil
}

// CheckInitData compares PCR 8 of a quote that holds with the digest of the init
// data that was sent, if there is one.
func CheckInitData(q *tpm.Quote, b as.Binding) error {
	if b.InitData == nil {
		return nil
	}
	if len(b.InitData) != sha256.Size {
		return fmt.Errorf("init data has a digest of %d bytes; a TPM takes one of SHA-256 only: %w", len(b.InitData), as.ErrEvidence)
	}
	want := sha256.Sum256(append(make([]byte, sha256.Size), b.InitData...))
	if got := q.PCRs[tpm.InitPCR]; !bytes.Equal(got, want[:]) {
		return fmt.Errorf("PCR %d is %x, the init data sent gives %x: %w", tpm.InitPCR, got, want, as.ErrEvidence)
	}
	return nil
}

// Claims returns the registers of a quote by their names.
func Claims(q *tpm.Quote) map[string]any {
	pcrs := map[string]any{}
	for i, v := range q.PCRs {
		pcrs[fmt.Sprintf("pcr%02d", i)] = hex.EncodeToString(v)
	}
	return pcrs
}

// InitData returns the claim about the init data.
func InitData(q *tpm.Quote) *string { return new(hex.EncodeToString(q.PCRs[tpm.InitPCR])) }

// Replay checks that each register that has entries in a log was extended with
// them and nothing else, and returns the claims of the log.
func Replay(q *tpm.Quote, raw []byte) ([]any, error) {
	l, err := eventlog.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	sums, err := l.Replay(eventlog.SHA256)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	for n, want := range sums {
		if n >= tpm.PCRs {
			return nil, fmt.Errorf("the event log is about register %d: %w", n, as.ErrEvidence)
		}
		if got := q.PCRs[n]; !bytes.Equal(got, want) {
			return nil, fmt.Errorf("PCR %d is %x, its event log gives %x: %w", n, got, want, as.ErrEvidence)
		}
	}
	claims, err := l.Claims()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	return claims, nil
}
