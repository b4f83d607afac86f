// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package tdx verifies the evidence of Intel TDX guests: quotes of version 4
// and 5, and the event log that their registers are the sum of.
//
// The quoting enclave has to be Intel's, always: the platform's key signs the
// report of any enclave that the host may run, and another could sign anything.
// How current a platform's firmware is, Intel says in signed collateral. Without
// a source of it tcb_status is "Unknown", and a policy that wants "UpToDate", as
// the default one does, affirms no platform.
//
// Trust: evidence is a claim of whoever sends it. What counts is the chain of
// signatures from Intel's root key, which is pinned here, to the quote.
package tdx

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"cocoon/attest/eventlog"
	"cocoon/attest/tee/tdx"
	"cocoon/trustee/as"
)

// intelRoot is the SHA-256 of the public key of "Intel SGX Root CA".
const intelRoot = "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"

// intelEnclaves is the signer (MRSIGNER) of Intel's quoting enclaves.
const intelEnclaves = "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"

// unknownStatus is what is said of a platform whose TCB status was not looked up.
const unknownStatus = "Unknown"

// Config is what a Verifier works with.
type Config struct {
	// Root is the SHA-256 of the public key (SubjectPublicKeyInfo) to trust;
	// nil means Intel's.
	Root *[sha256.Size]byte
	// Signer is the MRSIGNER of the quoting enclaves to trust; nil means Intel's.
	Signer *[sha256.Size]byte
	// Sources of collateral are asked in order; with none it is not looked at.
	Sources []Source
	// Now is the time at which certificates have to be valid; nil means time.Now.
	Now func() time.Time
}

// Verifier verifies TDX evidence. It is safe for concurrent use.
type Verifier struct {
	root    [sha256.Size]byte
	signer  [sha256.Size]byte // of quoting enclaves
	sources []Source
	now     func() time.Time
}

var _ as.Verifier = (*Verifier)(nil)

// New returns a Verifier.
func New(cfg Config) (*Verifier, error) {
	v := &Verifier{now: cfg.Now, sources: cfg.Sources}
	if v.now == nil {
		v.now = time.Now
	}
	var err error
	if v.root, err = pinned(cfg.Root, intelRoot); err != nil {
		return nil, err
	}
	if v.signer, err = pinned(cfg.Signer, intelEnclaves); err != nil {
		return nil, err
	}
	return v, nil
}

// pinned returns what was configured, or the digest in hexadecimal.
func pinned(configured *[sha256.Size]byte, text string) (d [sha256.Size]byte, err error) {
	if configured != nil {
		return *configured, nil
	}
	b, err := hex.DecodeString(text)
	if err == nil && len(b) != len(d) {
		err = fmt.Errorf("it has %d bytes", len(b))
	}
	if err != nil {
		return d, fmt.Errorf("pinned digest %q: %w", text, err)
	}
	copy(d[:], b)
	return d, nil
}

// Verify implements as.Verifier.
func (v *Verifier) Verify(ctx context.Context, evidence json.RawMessage, b as.Binding) (*as.Claims, error) {
	var e tdx.Evidence
	if err := json.Unmarshal(evidence, &e); err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	q, s, err := v.verifyQuote(e.Quote)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	if err := errors.Join(b.CheckReportData(q.ReportData()), b.CheckInitData(q.ConfigID())); err != nil {
		return nil, err
	}
	values := ClaimsOf(q)
	status, err := v.standing(ctx, q, s)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	maps.Copy(values, status)
	if len(e.EventLog) > 0 {
		if values["uefi_event_logs"], err = replay(q, e.EventLog); err != nil {
			return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
		}
	}
	init := hex.EncodeToString(q.ConfigID())
	return &as.Claims{Class: "cpu", ReportData: hex.EncodeToString(q.ReportData()), InitData: &init, Values: values}, nil
}

// VerifyQuote checks that Intel vouches for the platform that signed a quote.
func (v *Verifier) VerifyQuote(raw []byte) (*tdx.Quote, error) {
	q, _, err := v.verifyQuote(raw)
	return q, err
}

func (v *Verifier) verifyQuote(raw []byte) (*tdx.Quote, *signature, error) {
	q, err := tdx.ParseQuote(raw)
	if err != nil {
		return nil, nil, err
	}
	s, err := parseSignature(q.Signature)
	if err != nil {
		return nil, nil, err
	}
	if err := s.check(q, v.root, v.now()); err != nil {
		return nil, nil, err
	}
	if err := checkEnclave(s.report, v.signer); err != nil {
		return nil, nil, err
	}
	return q, s, checkModule(q)
}

// Standing verifies a quote, as VerifyQuote does, and returns the claims about
// how current its platform is.
func (v *Verifier) Standing(ctx context.Context, raw []byte) (*tdx.Quote, map[string]any, error) {
	q, s, err := v.verifyQuote(raw)
	if err != nil {
		return nil, nil, err
	}
	st, err := v.standing(ctx, q, s)
	return q, st, err
}

// standing returns the claims about the platform's firmware.
func (v *Verifier) standing(ctx context.Context, q *tdx.Quote, s *signature) (map[string]any, error) {
	if len(v.sources) == 0 {
		return map[string]any{"tcb_status": unknownStatus}, nil
	}
	p, ext, err := platformOf(s.chain[0])
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, source := range v.sources {
		c, err := source.Collateral(ctx, p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		o, err := c.open(v.root, s.chain, v.now())
		if err != nil {
			return nil, fmt.Errorf("collateral: %w", err)
		}
		st, err := o.judge(s, q, ext)
		if err != nil {
			return nil, err
		}
		return st.claims(), nil
	}
	return nil, fmt.Errorf("find the collateral of platform %s: %w", p.FMSPC, errors.Join(errs...))
}

// ClaimsOf returns the claims of a quote under the names that Trustee gives
// them.
func ClaimsOf(q *tdx.Quote) map[string]any {
	h := q.Header
	body := map[string]any{}
	for _, f := range q.Fields() {
		body[f.Name] = hex.EncodeToString(q.Field(f.Name))
	}
	quote := map[string]any{
		"header": map[string]any{
			"version": hex.EncodeToString(h[:2]), "att_key_type": hex.EncodeToString(h[2:4]), "tee_type": hex.EncodeToString(h[4:8]),
			"reserved": hex.EncodeToString(h[8:12]), "vendor_id": hex.EncodeToString(h[12:28]), "user_data": hex.EncodeToString(h[28:48]),
		},
		"body": body,
	}
	if q.Version == 5 {
		quote["type"] = fmt.Sprintf("%02x%02x", byte(q.Kind), byte(q.Kind>>8))
		quote["size"] = fmt.Sprintf("%02x%02x0000", byte(len(q.Body)), byte(len(q.Body)>>8))
	}
	attributes := map[string]any{}
	for name, on := range q.Attributes().Named() {
		attributes[name] = on
	}
	return map[string]any{"quote": quote, "td_attributes": attributes}
}

// replay checks that the log is what all four registers were extended with,
// and returns its claims.
func replay(q *tdx.Quote, raw []byte) ([]any, error) {
	l, err := eventlog.Parse(raw)
	if err != nil {
		return nil, err
	}
	if err := l.Only(1, 4); err != nil {
		return nil, err
	}
	sums, err := l.Replay(eventlog.SHA384)
	if err != nil {
		return nil, err
	}
	for i := range 4 {
		want, ok := sums[uint32(i+1)]
		if !ok {
			want = make([]byte, 48)
		}
		if got := q.Field(fmt.Sprintf("rtmr_%d", i)); !bytes.Equal(got, want) {
			return nil, fmt.Errorf("RTMR%d is %x, its event log gives %x", i, got, want)
		}
	}
	return l.Claims()
}
