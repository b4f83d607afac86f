// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package tpm verifies quotes of a TPM, and the evidence of guests that have a
// TPM and no other TEE.
//
// It follows the TPM 2.0 Library, part 2, and Trustee's verifier of that name.
//
// Trust: evidence is the guest's. A plain TPM says nothing about the machine it
// is in: whoever holds its key can make any quote. So only keys are believed
// that the operator has listed, and only as far as he trusts those machines.
package tpm

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-tpm/tpm2"

	"cocoon/attest/tee/tpm"
	"cocoon/internal/bounded"
	"cocoon/trustee/as"
)

const (
	maxKeys = 4096
	maxKey  = 16 << 10
	minBits = 2048

	// The sizes to which attesters pad or cut the digest of a session.
	nonceSize, oldNonceSize = 32, 64
)

// ErrUntrusted is returned for a quote by a key that is not listed.
var ErrUntrusted = errors.New("the TPM's key is not among the trusted ones")

// Verifier verifies evidence of type tpm.
type Verifier struct {
	trusted map[string]bool // by SubjectPublicKeyInfo in DER
}

var _ as.Verifier = (*Verifier)(nil)

// New returns a verifier that believes the keys in a folder: files whose names
// end in .pub, each with one RSA key in PEM. Others are passed over. It is an
// error if a key cannot be read or if there is none.
func New(folder string) (*Verifier, error) {
	names, err := filepath.Glob(filepath.Join(folder, "*.pub"))
	if err != nil {
		return nil, fmt.Errorf("list the TPM keys in %q: %w", folder, err)
	}
	if len(names) == 0 || len(names) > maxKeys {
		return nil, fmt.Errorf("%d TPM keys (*.pub) in %q, want 1 to %d", len(names), folder, maxKeys)
	}
	v := &Verifier{trusted: make(map[string]bool, len(names))}
	for _, name := range names {
		der, err := readKey(name)
		if err != nil {
			return nil, fmt.Errorf("read the TPM key %q: %w", name, err)
		}
		v.trusted[string(der)] = true
	}
	return v, nil
}

func readKey(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened to read; its error says nothing
	text, err := bounded.ReadAll(f, maxKey)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("it is not one public key in PEM")
	}
	key, err := parseKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKIXPublicKey(key)
}

func parseKey(der []byte) (*rsa.PublicKey, error) {
	any, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	key, ok := any.(*rsa.PublicKey)
	if !ok || key.N.BitLen() < minBits {
		return nil, fmt.Errorf("it is no RSA key of at least %d bits", minBits)
	}
	return key, nil
}

// Verify implements as.Verifier.
func (v *Verifier) Verify(_ context.Context, evidence json.RawMessage, b as.Binding) (*as.Claims, error) {
	var e tpm.Evidence
	if err := json.Unmarshal(evidence, &e); err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	q, err := quoteOf(e)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	der, err := x509.MarshalPKIXPublicKey(q.Key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	if !v.trusted[string(der)] {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, ErrUntrusted)
	}
	nonce, err := CheckQuote(q)
	if err != nil {
		return nil, fmt.Errorf("TPM quote: %w: %w", as.ErrEvidence, err)
	}
	if len(nonce) != nonceSize && len(nonce) != oldNonceSize {
		return nil, fmt.Errorf("the TPM quote has a nonce of %d bytes, want %d or %d: %w", len(nonce), nonceSize, oldNonceSize, as.ErrEvidence)
	}
	if err := b.CheckReportData(nonce); err != nil {
		return nil, err
	}
	if err := CheckInitData(q, b); err != nil {
		return nil, err
	}
	values := Claims(q)
	values["ak_public"] = base64.StdEncoding.EncodeToString(der)
	if len(e.EventLog) > 0 {
		if values["uefi_event_logs"], err = Replay(q, e.EventLog); err != nil {
			return nil, err
		}
	}
	return &as.Claims{Class: "cpu", ReportData: hex.EncodeToString(nonce), InitData: InitData(q), Values: values}, nil
}

func quoteOf(e tpm.Evidence) (*tpm.Quote, error) {
	key, err := parseKey(e.AKPublic)
	if err != nil {
		return nil, fmt.Errorf("the TPM's key: %w", err)
	}
	sig, err := tpm2.Unmarshal[tpm2.TPMTSignature](e.Quote.Signature)
	if err != nil {
		return nil, fmt.Errorf("signature of the TPM quote: %w", err)
	}
	ssa, err := sig.Signature.RSASSA()
	if err != nil || ssa.Hash != tpm2.TPMAlgSHA256 {
		return nil, fmt.Errorf("the TPM quote is signed by algorithm %#x, want RSASSA with SHA-256", uint16(sig.SigAlg))
	}
	q := &tpm.Quote{Key: key, Signature: ssa.Sig.Buffer, Message: e.Quote.Message}
	for i, text := range e.Quote.PCRs {
		v, err := hex.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("PCR %d: %w", i, err)
		}
		q.PCRs = append(q.PCRs, v)
	}
	return q, nil
}
