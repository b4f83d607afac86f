// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package corim reads reference values out of a concise reference integrity
// manifest (draft-ietf-rats-corim), signed by COSE_Sign1 or unsigned.
//
// Whoever hands in a manifest may have made it up: everything is bounded, and
// nothing of a signed one is looked at before its signature is checked.
//
// Only reference triples of CoMID tags count. Names and values are those of the
// upstream service: vendor, model, key, name and serial number of a measurement
// as far as present, joined by slashes, then "digests" with a list of
// hexadecimal digests or "raw_bytes" with hexadecimal text. Where the upstream
// service leaves a condition out of the name, so that the value would count for
// more than its author said, the manifest is refused.
package corim

import (
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"

	"cocoon/trustee/rvps/signer"
)

const (
	// MaxSize bounds a manifest, in bytes.
	MaxSize = 1 << 20

	maxDepth = 24
	maxItems = 8192

	tagSigned   = 18
	tagUnsigned = 501
	tagCoMID    = 506

	maxOuterTags = 4
)

// ErrBadManifest is returned for what is no usable manifest.
var ErrBadManifest = errors.New("invalid CoRIM")

// Manifest is what a CoRIM says.
type Manifest struct {
	// Values are the reference values by name.
	Values map[string]any
	// NotBefore and NotAfter bound the validity; zero means no bound.
	NotBefore, NotAfter time.Time
	// Signer is the key that signed, nil if nobody did.
	Signer *signer.Key
}

// Parse reads raw. With keys the manifest must be signed by one of them;
// without it must be unsigned, since nobody could check a signature.
func Parse(raw []byte, keys []signer.Key) (*Manifest, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("%d bytes, at most %d: %w", len(raw), MaxSize, ErrBadManifest)
	}
	d, err := mode()
	if err != nil {
		return nil, err
	}
	if err := d.Wellformed(raw); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadManifest, err)
	}
	raw = outer(raw)
	p := parser{mode: d, out: &Manifest{Values: map[string]any{}}}
	switch signed := tagOf(raw) == tagSigned; {
	case signed && len(keys) == 0:
		return nil, fmt.Errorf("the CoRIM is signed and no signers are configured to check it with: %w", signer.ErrUnsigned)
	case !signed && len(keys) > 0:
		return nil, fmt.Errorf("the CoRIM is unsigned: %w", signer.ErrUnsigned)
	case signed:
		if raw, err = p.open(raw, keys); err != nil {
			return nil, err
		}
	}
	if err := p.manifest(raw); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadManifest, err)
	}
	return p.out, nil
}

// mode is how foreign CBOR is decoded.
func mode() (cbor.DecMode, error) {
	d, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxNestedLevels: maxDepth, MaxArrayElements: maxItems, MaxMapPairs: maxItems,
		UTF8: cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		return nil, fmt.Errorf("set up CBOR: %w", err)
	}
	return d, nil
}

// outer strips the tags 500 and 502 that older drafts put around a manifest,
// as the upstream service does.
func outer(raw []byte) []byte {
	for range maxOuterTags {
		if t := tagOf(raw); t != 500 && t != 502 {
			break
		}
		raw = raw[3:]
	}
	return raw
}

// tagOf returns the tag that well-formed raw begins with in its shortest form,
// 0 if it begins with none.
func tagOf(raw []byte) int {
	switch {
	case len(raw) > 1 && raw[0]&0xe0 == 0xc0 && raw[0]&0x1f < 24:
		return int(raw[0] & 0x1f)
	case len(raw) > 3 && raw[0] == 0xd9:
		return int(raw[1])<<8 | int(raw[2])
	}
	return 0
}

type parser struct {
	mode cbor.DecMode
	out  *Manifest
}

type corimMap struct {
	Tags     []cbor.RawMessage `cbor:"1,keyasint"`
	Validity *validity         `cbor:"4,keyasint,omitempty"`
}

type validity struct {
	NotBefore *time.Time `cbor:"0,keyasint,omitempty"`
	NotAfter  *time.Time `cbor:"1,keyasint"`
}

func (p *parser) manifest(raw []byte) error {
	if t := tagOf(raw); t != tagUnsigned {
		return fmt.Errorf("tag %d, want %d", t, tagUnsigned)
	}
	var m corimMap
	if err := p.mode.Unmarshal(raw[3:], &m); err != nil {
		return err
	}
	if err := p.restrict(m.Validity); err != nil {
		return err
	}
	for i, tag := range m.Tags {
		body, ok, err := p.comid(tag)
		if err != nil {
			return fmt.Errorf("tag %d of the manifest: %w", i, err)
		}
		if !ok {
			continue
		}
		if err := p.triples(body); err != nil {
			return fmt.Errorf("CoMID %d: %w", i, err)
		}
	}
	if len(p.out.Values) == 0 {
		return errors.New("no reference value with a digest or raw bytes in it")
	}
	return nil
}

// comid returns the CoMID inside a tag; other kinds of tags are passed over.
func (p *parser) comid(tag []byte) ([]byte, bool, error) {
	if len(tag) < 4 || tagOf(tag) != tagCoMID {
		return nil, false, nil
	}
	var body []byte
	if err := p.mode.Unmarshal(tag[3:], &body); err != nil {
		return nil, false, err
	}
	return body, true, nil
}

// restrict narrows the validity of the result by v.
func (p *parser) restrict(v *validity) error {
	if v == nil {
		return nil
	}
	if v.NotAfter == nil || v.NotAfter.IsZero() {
		return errors.New("validity without an end")
	}
	p.until(*v.NotAfter)
	if v.NotBefore != nil {
		p.from(*v.NotBefore)
	}
	return nil
}

func (p *parser) until(t time.Time) {
	if p.out.NotAfter.IsZero() || t.Before(p.out.NotAfter) {
		p.out.NotAfter = t
	}
}

func (p *parser) from(t time.Time) {
	if t.After(p.out.NotBefore) {
		p.out.NotBefore = t
	}
}
