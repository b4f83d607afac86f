// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package corim

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/fxamacker/cbor/v2"
)

const (
	tagUUID = 37
	tagRaw  = 560

	maxDigest = 64
	maxRaw    = 4096
	maxValues = 4096
)

type comidMap struct {
	Triples struct {
		Reference []triple `cbor:"0,keyasint,omitempty"`
	} `cbor:"4,keyasint"`
}

type triple struct {
	_            struct{} `cbor:",toarray"`
	Environment  environment
	Measurements []measurement
}

type environment struct {
	Class    *class          `cbor:"0,keyasint,omitempty"`
	Instance cbor.RawMessage `cbor:"1,keyasint,omitempty"`
	Group    cbor.RawMessage `cbor:"2,keyasint,omitempty"`
}

type class struct {
	Vendor *string `cbor:"1,keyasint,omitempty"`
	Model  *string `cbor:"2,keyasint,omitempty"`
}

type measurement struct {
	Key        cbor.RawMessage `cbor:"0,keyasint,omitempty"`
	Values     measured        `cbor:"1,keyasint"`
	Authorised cbor.RawMessage `cbor:"2,keyasint,omitempty"`
}

type measured struct {
	Digests []digest        `cbor:"2,keyasint,omitempty"`
	Raw     cbor.RawMessage `cbor:"4,keyasint,omitempty"`
	RawMask cbor.RawMessage `cbor:"5,keyasint,omitempty"`
	Serial  *string         `cbor:"8,keyasint,omitempty"`
	Name    *string         `cbor:"11,keyasint,omitempty"`
}

type digest struct {
	_         struct{} `cbor:",toarray"`
	Algorithm cbor.RawMessage
	Value     []byte
}

func (p *parser) triples(raw []byte) error {
	// The bytes were opaque to the check of the manifest around them.
	if err := p.mode.Wellformed(raw); err != nil {
		return err
	}
	if t := tagOf(raw); t == tagCoMID {
		raw = raw[3:]
	}
	var m comidMap
	if err := p.mode.Unmarshal(raw, &m); err != nil {
		return err
	}
	for i, t := range m.Triples.Reference {
		if err := p.triple(t); err != nil {
			return fmt.Errorf("reference triple %d: %w", i, err)
		}
	}
	return nil
}

func (p *parser) triple(t triple) error {
	if t.Environment.Instance != nil || t.Environment.Group != nil {
		return errors.New("it is of one instance or group, which no name of a value tells")
	}
	var path []string
	if c := t.Environment.Class; c != nil {
		path = appendSet(path, c.Vendor, c.Model)
	}
	for i, m := range t.Measurements {
		if err := p.measurement(slices.Clone(path), m); err != nil {
			return fmt.Errorf("measurement %d: %w", i, err)
		}
	}
	return nil
}

func appendSet(path []string, parts ...*string) []string {
	for _, s := range parts {
		if s != nil {
			path = append(path, *s)
		}
	}
	return path
}

func (p *parser) measurement(path []string, m measurement) error {
	if m.Authorised != nil {
		return errors.New("it is bound to an authority, which no name of a value tells")
	}
	if m.Key != nil {
		key, err := p.key(m.Key)
		if err != nil {
			return fmt.Errorf("key: %w", err)
		}
		path = append(path, key)
	}
	path = appendSet(path, m.Values.Name, m.Values.Serial)
	if len(m.Values.Digests) > 0 {
		if err := p.digests(strings.Join(append(slices.Clone(path), "digests"), "/"), m.Values.Digests); err != nil {
			return err
		}
	}
	if m.Values.Raw == nil {
		return nil
	}
	return p.raw(strings.Join(append(path, "raw_bytes"), "/"), m.Values)
}

// key names a measurement as the upstream service does: text as it is, a
// number behind "claim", a UUID in its usual form.
func (p *parser) key(raw cbor.RawMessage) (string, error) {
	switch raw[0] & 0xe0 {
	case 0x00:
		var n uint64
		err := p.mode.Unmarshal(raw, &n)
		return "claim" + strconv.FormatUint(n, 10), err
	case 0x60:
		var s string
		err := p.mode.Unmarshal(raw, &s)
		return s, err
	}
	var t cbor.RawTag
	if err := p.mode.Unmarshal(raw, &t); err != nil || t.Number != tagUUID {
		return "", errors.New("neither text, number nor UUID")
	}
	var b []byte
	if err := p.mode.Unmarshal(t.Content, &b); err != nil || len(b) != 16 {
		return "", errors.New("a UUID has 16 bytes")
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

// digests adds to the list of name. Measurements of the same name are
// alternatives; the upstream service keeps only the last.
func (p *parser) digests(name string, all []digest) error {
	list, _ := p.out.Values[name].([]any)
	for _, d := range all {
		if len(d.Value) == 0 || len(d.Value) > maxDigest {
			return fmt.Errorf("digest of %d bytes, want 1 to %d", len(d.Value), maxDigest)
		}
		list = append(list, hex.EncodeToString(d.Value))
	}
	return p.put(name, list)
}

// raw takes bytes without a mask; other kinds have no value upstream.
func (p *parser) raw(name string, m measured) error {
	var t cbor.RawTag
	if err := p.mode.Unmarshal(m.Raw, &t); err != nil || t.Number != tagRaw {
		return nil //nolint:nilerr // another kind of raw value, which upstream passes over as well
	}
	if m.RawMask != nil {
		return errors.New("raw bytes with a mask, which no value tells")
	}
	var b []byte
	if err := p.mode.Unmarshal(t.Content, &b); err != nil {
		return fmt.Errorf("raw bytes: %w", err)
	}
	if len(b) > maxRaw {
		return fmt.Errorf("raw value of %d bytes, at most %d", len(b), maxRaw)
	}
	text := hex.EncodeToString(b)
	if old, ok := p.out.Values[name]; ok && old != text {
		return fmt.Errorf("two raw values of the name %q", name)
	}
	return p.put(name, text)
}

func (p *parser) put(name string, v any) error {
	p.out.Values[name] = v
	if len(p.out.Values) > maxValues {
		return fmt.Errorf("more than %d values", maxValues)
	}
	return nil
}
