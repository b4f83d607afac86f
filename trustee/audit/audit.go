// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package audit writes down what the broker decided, for its operator.
//
// Reasons and claims come from guests and are stored as JSON, so that a guest
// cannot forge a line. No record holds a secret, a token or a key.
package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"cocoon/trustee/as"
)

// Record is one line of the audit log: who got or was refused what, on which
// evidence.
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

// Log writes records as lines of JSON.
type Log struct {
	w   io.Writer
	now func() time.Time
}

// New writes to w, each record by one call of Write, which must be safe for
// concurrent use as that of a file opened for appending is.
func New(w io.Writer, now func() time.Time) *Log { return &Log{w: w, now: now} }

// Write stores r. Callers release nothing when it fails.
func (l *Log) Write(r Record) error {
	r.Time = l.now().UTC()
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode audit record: %w", err)
	}
	if _, err := l.w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write audit record: %w", err)
	}
	return nil
}

// Summary is what the log keeps of a token: verdict, reasons, the claims about
// hardware and software, and digests, without keys and configuration.
func Summary(claims map[string]any) map[string]any {
	submods, _ := claims["submods"].(map[string]any)
	out := map[string]any{}
	for name, v := range submods {
		m, _ := v.(map[string]any)
		ev, _ := m[as.EvidenceMember].(map[string]any)
		kept := map[string]any{}
		for k, c := range ev {
			if k != "runtime_data_claims" && k != "init_data_claims" {
				kept[k] = c
			}
		}
		out[name] = map[string]any{"status": m[as.StatusMember], "reasons": m[as.ReasonsMember], "claims": kept}
	}
	return out
}

// Digest is what a record says instead of a token.
func Digest(token string) string {
	d := sha256.Sum256([]byte(token))
	return hex.EncodeToString(d[:])
}
