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

// parseMessage returns the values and, if the sender chose one, the expiration.
func parseMessage(raw []byte) (map[string]any, time.Time, error) {
	var m message
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, time.Time{}, fmt.Errorf("%w: %w", ErrBadMessage, err)
	}
	if m.Version != MessageVersion {
		return nil, time.Time{}, fmt.Errorf("version %q, want %q: %w", m.Version, MessageVersion, ErrBadMessage)
	}
	if m.Type != "sample" {
		return nil, time.Time{}, fmt.Errorf("type %q, only \"sample\" is supported: %w", m.Type, ErrBadMessage)
	}
	payload, err := base64.StdEncoding.DecodeString(m.Payload)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("payload: %w: %w", ErrBadMessage, err)
	}
	values, err := parseValues(payload)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("payload: %w: %w", ErrBadMessage, err)
	}
	var expires time.Time
	if m.Expiration != nil {
		expires = *m.Expiration
	}
	return values, expires, nil
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
	if len(values) == 0 || len(values) > maxNames {
		return nil, fmt.Errorf("%d values, want 1 to %d", len(values), maxNames)
	}
	for name, v := range values {
		if err := checkName(name); err != nil {
			return nil, err
		}
		if v == nil {
			return nil, fmt.Errorf("value of %q is null", name)
		}
	}
	return values, nil
}

func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("name of %d bytes, want 1 to %d", len(name), maxName)
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return fmt.Errorf("name %q has byte %q at %d", name, c, i)
		}
	}
	return nil
}
