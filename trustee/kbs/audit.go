// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Record is one line of the audit log: who got or was refused what, on which
// evidence. It never holds a secret, a token or a key.
type Record struct {
	Time     time.Time `json:"time"`
	Event    string    `json:"event"`
	Decision string    `json:"decision"`
	Remote   string    `json:"remote"`
	// Path is the resource, policy or reference value.
	Path string `json:"path,omitempty"`
	// Reason says why something was refused.
	Reason string `json:"reason,omitempty"`
	// Token is the SHA-256 of the token, to relate records to each other.
	Token string `json:"token_sha256,omitempty"`
	// Policy is the SHA-256 of the policy that decided or was set.
	Policy string `json:"policy_sha256,omitempty"`
	// Evidence is the verdict about each submodule and what it rests on.
	Evidence map[string]any `json:"evidence,omitempty"`
}

// Audit writes records as lines of JSON.
type Audit struct {
	w   io.Writer
	now func() time.Time
}

// NewAudit writes to w, each record by one call of Write, which must be safe
// for concurrent use as that of a file opened for appending is.
func NewAudit(w io.Writer, now func() time.Time) *Audit { return &Audit{w: w, now: now} }

// write stores r. Callers release nothing when it fails.
func (a *Audit) write(r Record) error {
	r.Time = a.now().UTC()
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode audit record: %w", err)
	}
	if _, err := a.w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write audit record: %w", err)
	}
	return nil
}
