// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cca verifies the tokens of Arm CCA realms.
//
// It follows draft-ffm-rats-cca-token, the RMM specification (DEN0137) and
// Trustee's verifier of that name. That one also compares the platform's
// firmware with a file of reference values; here the claims have it, and the
// attestation policy compares.
//
// Trust: evidence is a claim of whoever sends it. What counts is the signature
// of a platform that the operator has listed, over the digest of the key that
// signed the realm's claims.
package cca

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"cocoon/attest/tee/cca"
	"cocoon/trustee/as"
)

// Verifier verifies evidence of type cca. It is safe for concurrent use.
type Verifier struct{ trusted anchors }

var _ as.Verifier = (*Verifier)(nil)

// New returns a verifier that believes the platforms in a file of trust
// anchors, in the form of Veraison's: [{"pkey": JWK, "implementation-id": hex,
// "instance-id": hex}, …].
func New(file string) (*Verifier, error) {
	a, err := readAnchors(file)
	if err != nil {
		return nil, err
	}
	return &Verifier{trusted: a}, nil
}

// Verify implements as.Verifier.
func (v *Verifier) Verify(_ context.Context, evidence json.RawMessage, b as.Binding) (*as.Claims, error) {
	var e cca.Evidence
	if err := json.Unmarshal(evidence, &e); err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	p, r, err := v.check(e.Token)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	if err := errors.Join(b.CheckReportData(r.Challenge), checkInitData(r, b)); err != nil {
		return nil, err
	}
	init := hex.EncodeToString(r.Personalization)
	return &as.Claims{Class: "cpu", ReportData: hex.EncodeToString(r.Challenge), InitData: &init, Values: claims(p, r)}, nil
}

// check follows the signatures from a listed platform to the realm.
func (v *Verifier) check(raw []byte) (*platform, *realm, error) {
	t, err := parse(raw)
	if err != nil {
		return nil, nil, err
	}
	var p platform
	signed, err := open(t.Platform, &p)
	if err == nil {
		err = p.complete()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("platform token: %w", err)
	}
	a, ok := v.trusted[string(p.Instance)]
	if !ok {
		return nil, nil, fmt.Errorf("instance %x: %w", p.Instance, ErrUntrusted)
	}
	if err := signed.check(a.key); err != nil {
		return nil, nil, fmt.Errorf("platform token: %w", err)
	}
	if !bytes.Equal(a.implementation, p.Implementation) {
		return nil, nil, fmt.Errorf("the platform is of implementation %x, its trust anchor is for %x", p.Implementation, a.implementation)
	}
	if !p.secured() {
		return nil, nil, fmt.Errorf("the platform is in lifecycle state %#04x, which is not secured", *p.Lifecycle)
	}
	r, err := p.realm(t.Realm)
	if err != nil {
		return nil, nil, fmt.Errorf("realm token: %w", err)
	}
	return &p, r, nil
}

// realm reads the other part and checks that the platform vouches for it.
func (p *platform) realm(raw []byte) (*realm, error) {
	var r realm
	signed, err := open(raw, &r)
	if err == nil {
		err = r.complete()
	}
	if err != nil {
		return nil, err
	}
	if err := p.vouchesFor(&r); err != nil {
		return nil, err
	}
	key, err := r.attestationKey()
	if err != nil {
		return nil, fmt.Errorf("the realm's key: %w", err)
	}
	return &r, signed.check(key)
}

// checkInitData wants the digest to be the whole personalization value, as
// upstream does: a shorter one with zeros behind it is refused, since the host
// chose the value and nobody says that it was meant as padded.
func checkInitData(r *realm, b as.Binding) error {
	if b.InitData == nil || bytes.Equal(b.InitData, r.Personalization) {
		return nil
	}
	return fmt.Errorf("the realm's personalization value is %x, the digest of the init data sent is %x: %w", r.Personalization, b.InitData, as.ErrEvidence)
}

// claims returns what is claimed under the names that Trustee gives them, in
// base64 as there, and the platform's state and firmware under those of the
// token.
func claims(p *platform, r *realm) map[string]any {
	text := base64.StdEncoding.EncodeToString
	var components []any
	for _, c := range p.Components {
		m := map[string]any{"measurement-value": text(c.Value), "signer-id": text(c.Signer)}
		for name, value := range map[string]string{"measurement-type": c.Type, "version": c.Version, "hash-algo-id": c.Hash} {
			if value != "" {
				m[name] = value
			}
		}
		components = append(components, m)
	}
	var measurements []any
	for _, m := range r.Extensible {
		measurements = append(measurements, text(m))
	}
	return map[string]any{
		"platform": map[string]any{
			"cca-platform-instance-id": text(p.Instance), "cca-platform-implementation-id": text(p.Implementation),
			"cca-platform-profile": p.Profile, "cca-platform-lifecycle": int(*p.Lifecycle), "cca-platform-config": text(p.Config),
			"cca-platform-hash-algo-id": p.Hash, "cca-platform-sw-components": components,
		},
		"realm": map[string]any{
			"cca-realm-personalization-value": text(r.Personalization), "cca-realm-initial-measurement": text(r.Initial),
			"cca-realm-extensible-measurements": measurements, "cca-realm-hash-algo-id": r.Hash,
		},
	}
}
