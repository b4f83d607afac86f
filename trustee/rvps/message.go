// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package rvps

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"cocoon/trustee/rvps/corim"
	"cocoon/trustee/rvps/intoto"
	"cocoon/trustee/rvps/signer"
)

// MessageVersion is the only version of a message.
const MessageVersion = "0.1.0"

const (
	maxNames = 4096
	maxName  = 256
)

// ErrBadMessage is returned for a message that cannot be registered.
var ErrBadMessage = errors.New("invalid reference value message")

// message is what POST /reference-value carries. Expiration is an addition to
// the upstream format, which knows only a fixed life of twelve months.
type message struct {
	Version    string     `json:"version"`
	Type       string     `json:"type"`
	Payload    string     `json:"payload"`
	Expiration *time.Time `json:"expiration,omitempty"`
}

// NewMessage builds a message that registers values. A zero expiration leaves
// the choice to the server.
func NewMessage(values map[string]any, expiration time.Time) ([]byte, error) {
	payload, err := json.Marshal(values)
	if err != nil {
		return nil, fmt.Errorf("encode reference values: %w", err)
	}
	m := message{Version: MessageVersion, Type: "sample", Payload: base64.StdEncoding.EncodeToString(payload)}
	if !expiration.IsZero() {
		at := expiration.UTC()
		m.Expiration = &at
	}
	return json.Marshal(m)
}

// registration is what a message asks for. Zero times mean no bound.
type registration struct {
	values             map[string]any
	notBefore, expires time.Time
	signer             string
}

// NewSignedMessage builds a message of kind, corim or in-toto, around a file as
// its author signed it.
func NewSignedMessage(kind string, file []byte) ([]byte, error) {
	return json.Marshal(message{Version: MessageVersion, Type: kind, Payload: base64.StdEncoding.EncodeToString(file)})
}

// parseMessage returns what raw asks for. With keys a type that can be signed
// has to be, by one of them.
func parseMessage(raw []byte, keys []signer.Key) (*registration, error) {
	var m message
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadMessage, err)
	}
	if m.Version != MessageVersion {
		return nil, fmt.Errorf("version %q, want %q: %w", m.Version, MessageVersion, ErrBadMessage)
	}
	payload, err := base64.StdEncoding.DecodeString(m.Payload)
	if err != nil {
		return nil, fmt.Errorf("payload: %w: %w", ErrBadMessage, err)
	}
	reg, err := extract(m.Type, payload, keys)
	if err != nil {
		return nil, fmt.Errorf("payload: %w: %w", ErrBadMessage, err)
	}
	if err := checkValues(reg.values); err != nil {
		return nil, fmt.Errorf("payload: %w: %w", ErrBadMessage, err)
	}
	// The sender may shorten what the author allows, not lengthen it.
	if m.Expiration != nil && (reg.expires.IsZero() || m.Expiration.Before(reg.expires)) {
		reg.expires = *m.Expiration
	}
	return reg, nil
}

func extract(kind string, payload []byte, keys []signer.Key) (*registration, error) {
	switch kind {
	case "sample":
		values, err := parseValues(payload)
		return &registration{values: values}, err
	case "corim":
		m, err := corim.Parse(payload, keys)
		if err != nil {
			return nil, err
		}
		return &registration{values: m.Values, notBefore: m.NotBefore, expires: m.NotAfter, signer: idOf(m.Signer)}, nil
	case "in-toto":
		s, err := intoto.Parse(payload, keys)
		if err != nil {
			return nil, err
		}
		return &registration{values: s.Values, notBefore: s.NotBefore, expires: s.NotAfter, signer: idOf(s.Signer)}, nil
	}
	return nil, fmt.Errorf("type %q, want \"sample\", \"corim\" or \"in-toto\"", kind)
}

func idOf(k *signer.Key) string {
	if k == nil {
		return ""
	}
	return k.ID
}

func parseValues(payload []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber() // a reference value must equal the claim digit by digit
	var values map[string]any
	if err := d.Decode(&values); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("data after the object")
	}
	return values, nil
}

func checkValues(values map[string]any) error {
	if len(values) == 0 || len(values) > maxNames {
		return fmt.Errorf("%d values, want 1 to %d", len(values), maxNames)
	}
	for name, v := range values {
		if err := CheckName(name); err != nil {
			return err
		}
		if v == nil {
			return fmt.Errorf("value of %q is null", name)
		}
	}
	return nil
}

// CheckName refuses names that no value can have. A wildcard is one: it would
// look as if it stood for several values and never match any. Blanks stand only
// between other bytes, as in the names of vendors.
func CheckName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("name of %d bytes, want 1 to %d", len(name), maxName)
	}
	for i := range len(name) {
		c := name[i]
		if c == '*' || c == '?' {
			return fmt.Errorf("name %q has the wildcard %q: name one value", name, c)
		}
		if blank := c == ' ' && i > 0 && i < len(name)-1; c <= ' ' && !blank || c >= 0x7f || c == '"' || c == '\\' {
			return fmt.Errorf("name %q has byte %q at %d", name, c, i)
		}
	}
	return nil
}
