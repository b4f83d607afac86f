// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestASessionCannotBeUsedOutOfOrder(t *testing.T) {
	t.Parallel()
	type step func(s *Sessions, c *clock, id string) error
	begin := func(s *Sessions, _ *clock, id string) error { _, err := s.begin(id); return err }
	finish := func(s *Sessions, _ *clock, id string) error { return s.finish(id, "token", "key") }
	drop := func(s *Sessions, _ *clock, id string) error { s.drop(id); return nil }
	late := func(_ *Sessions, c *clock, _ string) error { c.t = c.t.Add(time.Minute); return nil }
	crowd := func(s *Sessions, _ *clock, _ string) error {
		for range 8 {
			s.open("sample", "")
		}
		return nil
	}
	for name, tc := range map[string]struct{ before []step }{
		"nothing done":            {nil},
		"in progress":             {[]step{begin}},
		"dropped":                 {[]step{begin, drop}},
		"dropped when attested":   {[]step{begin, finish, drop}},
		"expired at once":         {[]step{late}},
		"expired in progress":     {[]step{begin, late}},
		"expired when attested":   {[]step{begin, finish, late}},
		"pushed out by strangers": {[]step{crowd}},
		"pushed out in progress":  {[]step{begin, crowd}},
	} {
		c := &clock{t: time.Unix(1_000_000, 0)}
		s := NewSessions(4, time.Minute, c.now)
		id := s.open("sample", "").id
		for i, step := range tc.before {
			if err := step(s, c, id); err != nil {
				t.Fatalf("%s: step %d: %v", name, i, err)
			}
		}
		if token, err := s.tokenOf(id); !errors.Is(err, ErrSession) || token != "" {
			t.Errorf("%s: token %q, error %v", name, token, err)
		}
	}
}

func TestASessionThatEndedIsNotFinished(t *testing.T) {
	t.Parallel()
	c := &clock{t: time.Unix(1_000_000, 0)}
	s := NewSessions(2, time.Minute, c.now)
	id := s.open("sample", "").id
	if _, err := s.begin(id); err != nil {
		t.Fatal(err)
	}
	c.t = c.t.Add(time.Minute)
	if err := s.finish(id, "token", "key"); !errors.Is(err, ErrSession) || s.Len() != 0 {
		t.Fatalf("after its end: %v, %d sessions", err, s.Len())
	}
	for _, unknown := range []string{"", id, "0123456789abcdef0123456789abcdef"} {
		if _, err := s.begin(unknown); !errors.Is(err, ErrSession) {
			t.Errorf("begin %q: %v", unknown, err)
		}
		if _, err := s.tokenOf(unknown); !errors.Is(err, ErrSession) {
			t.Errorf("token of %q: %v", unknown, err)
		}
		s.drop(unknown)
	}
}

func TestAnAttestedSessionTakesNoSecondAttempt(t *testing.T) {
	t.Parallel()
	s := NewSessions(2, time.Minute, time.Now)
	id := s.open("sample", "").id
	if _, err := s.begin(id); err != nil {
		t.Fatal(err)
	}
	if err := s.finish(id, "token", "key"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		n, err := s.begin(id)
		if err != nil || n.phase != attested || n.token != "token" || n.key != "key" {
			t.Fatalf("session %+v, error %v", n, err)
		}
	}
	if got, err := s.tokenOf(id); err != nil || got != "token" {
		t.Fatalf("token %q, error %v", got, err)
	}
}

func TestTheBytesOfAllTokensAreBounded(t *testing.T) {
	t.Parallel()
	c := &clock{t: time.Unix(1_000_000, 0)}
	s := NewSessions(1000, time.Minute, c.now)
	large := strings.Repeat("x", maxHeld/4)
	attest := func(token string) string {
		t.Helper()
		id := s.open("sample", "").id
		if _, err := s.begin(id); err != nil {
			t.Fatal(err)
		}
		if err := s.finish(id, token, "key"); err != nil {
			t.Fatal(err)
		}
		return id
	}
	small := attest("small")
	var ids []string
	for range 6 {
		ids = append(ids, attest(large))
	}
	if _, err := s.tokenOf(small); !errors.Is(err, ErrSession) || s.Len() != 4 || s.held != maxHeld {
		t.Fatalf("%d sessions hold %d bytes; the oldest: %v", s.Len(), s.held, err)
	}
	if got, err := s.tokenOf(ids[5]); err != nil || got != large {
		t.Fatalf("the latest: %d bytes, error %v", len(got), err)
	}
	s.drop(ids[5])
	s.drop(ids[0]) // is gone
	c.t = c.t.Add(time.Minute)
	s.open("sample", "")
	if s.Len() != 1 || s.held != 0 {
		t.Fatalf("%d sessions hold %d bytes", s.Len(), s.held)
	}
}
