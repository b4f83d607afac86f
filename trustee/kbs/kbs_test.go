// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func TestTheNumberOfSessionsIsBounded(t *testing.T) {
	t.Parallel()
	c := &clock{t: time.Unix(1_000_000, 0)}
	s := NewSessions(4, time.Minute, c.now)
	kept := s.open("sample", "")
	if _, err := s.begin(kept.id); err != nil {
		t.Fatal(err)
	}
	if err := s.finish(kept.id, "token", "key"); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		s.open("sample", "")
	}
	if got, err := s.tokenOf(kept.id); err != nil || got != "token" || s.Len() != 4 {
		t.Fatalf("token %q, %d sessions, error %v", got, s.Len(), err)
	}
	c.t = c.t.Add(time.Minute)
	if _, err := s.tokenOf(kept.id); !errors.Is(err, ErrSession) {
		t.Fatalf("expired: %v", err)
	}
	s.open("sample", "")
	if s.Len() != 1 {
		t.Fatalf("%d sessions, want only the fresh one", s.Len())
	}
}

func TestOnlyAttestedSessionsGiveWayToEachOther(t *testing.T) {
	t.Parallel()
	c := &clock{t: time.Unix(1_000_000, 0)}
	s := NewSessions(2, time.Minute, c.now)
	var ids []string
	for range 3 {
		n := s.open("sample", "")
		if _, err := s.begin(n.id); err != nil {
			t.Fatal(err)
		}
		if err := s.finish(n.id, "token", "key"); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, n.id)
	}
	if _, err := s.tokenOf(ids[0]); !errors.Is(err, ErrSession) || s.Len() != 2 {
		t.Fatalf("%d sessions; the oldest: %v", s.Len(), err)
	}
}

func TestOneOfManyAttemptsBegins(t *testing.T) {
	t.Parallel()
	s := NewSessions(4, time.Minute, time.Now)
	n := s.open("sample", "")
	var wg sync.WaitGroup
	var mu sync.Mutex
	begun := 0
	for range 16 {
		wg.Go(func() {
			if _, err := s.begin(n.id); err == nil {
				mu.Lock()
				defer mu.Unlock()
				begun++
			}
		})
	}
	wg.Wait()
	if begun != 1 {
		t.Fatalf("%d attempts began", begun)
	}
	if _, err := s.tokenOf(n.id); !errors.Is(err, ErrSession) {
		t.Fatalf("a session in progress: %v", err)
	}
	s.drop(n.id)
	if err := s.finish(n.id, "token", "key"); !errors.Is(err, ErrSession) {
		t.Fatalf("a dropped session was finished: %v", err)
	}
}

func TestIdsAndNoncesAreUnguessable(t *testing.T) {
	t.Parallel()
	s := NewSessions(1000, time.Minute, time.Now)
	seen := map[string]bool{}
	for range 500 {
		n := s.open("sample", "")
		if len(n.id) != 32 || strings.Trim(n.id, "0123456789abcdef") != "" || len(n.nonce) != 44 || seen[n.id] || seen[n.nonce] {
			t.Fatalf("id %q, nonce %q", n.id, n.nonce)
		}
		seen[n.id], seen[n.nonce] = true, true
	}
}

// checkProblem says whether a parser's error is one that a client may see.
func checkProblem(t *testing.T, err error) {
	t.Helper()
	p, ok := errors.AsType[*problem](err)
	if !ok || p.status < http.StatusBadRequest || p.variant == "" {
		t.Fatalf("error %v is no problem with a status", err)
	}
}

func FuzzAuth(f *testing.F) {
	f.Add([]byte(`{"version":"0.4.0","tee":"sample","extra-params":{"supported-hash-algorithms":["sha384"]}}`))
	f.Add([]byte(`{"version":"0.1.0","tee":"snp","extra-params":""}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		q, err := parseAuth(raw)
		if err != nil {
			checkProblem(t, err)
			return
		}
		if q.Version != protocolVersion {
			t.Fatalf("version %q was accepted", q.Version)
		}
	})
}

func FuzzAttest(f *testing.F) {
	const key = `{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"VE5DZ3lY7GNrA5aP5NMjW98d4e1unpNW2OMcAMXLdEg","y":"5vkL19iSlbWONgHGXmtSDCMgIcvxQAfhyJOIhBXVf44"}`
	f.Add([]byte(`{"init-data":null,"runtime-data":{"nonce":"AA==","tee-pubkey":` + key + `},"tee-evidence":{"primary_evidence":{"svn":"1"},"additional_evidence":""}}`))
	f.Add([]byte(`{"init-data":{"format":"toml","body":"x"},"runtime-data":{"nonce":"AA==","tee-pubkey":` + key + `},"tee-evidence":{"primary_evidence":{},"additional_evidence":"{}"}}`))
	f.Add([]byte(`{"tee-evidence":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := parseAttest(raw)
		if err != nil {
			checkProblem(t, err)
			return
		}
		if a.key == nil || len(a.primary) == 0 {
			t.Fatalf("incomplete attestation %+v", a)
		}
		if id, err := a.identity(); err != nil || len(id) != 64 {
			t.Fatalf("identity %q, error %v", id, err)
		}
	})
}

func FuzzPolicyMessage(f *testing.F) {
	f.Add([]byte(`{"policy":"cGFja2FnZSBwb2xpY3k"}`))
	f.Add([]byte(`{"type":"rego","policy_id":"default_cpu","policy":"%"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := parsePolicy(raw); err != nil {
			checkProblem(t, err)
		}
	})
}

func TestOnlySecureExecutionSelectsAHash(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		tee, extra string
		want       any
		bad        bool
	}{
		"se":              {"se", `{"supported-hash-algorithms":["sha384","sha512"]}`, map[string]string{"selected-hash-algorithm": "sha512"}, false},
		"se, not known":   {"se", `{"supported-hash-algorithms":["sha256","sha384"]}`, nil, true},
		"se, none known":  {"se", `{"supported-hash-algorithms":[]}`, nil, true},
		"se, says naught": {"se", `""`, "", false},
		"se, an object":   {"se", `{}`, "", false},
		"se, malformed":   {"se", `{"supported-hash-algorithms":"sha512"}`, nil, true},
		"se, nothing":     {"se", ``, "", false},
		"another":         {"snp", `{"supported-hash-algorithms":["sha512"]}`, "", false},
	} {
		got, err := authRequest{TEE: tc.tee, Extra: json.RawMessage(tc.extra)}.extraParams()
		if (err != nil) != tc.bad || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
