// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"container/list"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	nonceSize = 32
	idSize    = 16

	// maxHeld bounds the bytes of all tokens: guests choose the initdata that
	// a token repeats.
	maxHeld = 64 << 20
)

// ErrSession is returned for a session that cannot be used.
var ErrSession = errors.New("session refused")

// phase is how far a session has come. It only moves forward.
type phase int

const (
	challenged phase = iota // a nonce is out
	evaluating              // its one evidence is being checked
	attested                // a token exists
)

// session is one handshake. Its nonce serves one attempt: a failed one ends it.
type session struct {
	id      string
	tee     string
	nonce   string
	expires time.Time
	phase   phase
	token   string
	key     string // digest of the runtime data that the token was given for
	place   *list.Element
}

// Sessions are the handshakes in progress and the attested guests. Anybody can
// open a session, so their number is bounded: the oldest that has not attested
// gives way first. It is safe for concurrent use.
type Sessions struct {
	max  int
	life time.Duration
	now  func() time.Time

	mu   sync.Mutex // guards the fields below
	byID map[string]*session
	held int // bytes of tokens
	// young and done hold unattested and attested sessions, oldest first.
	young, done *list.List
}

// NewSessions keeps at most max sessions, each for life.
func NewSessions(max int, life time.Duration, now func() time.Time) *Sessions {
	return &Sessions{max: max, life: life, now: now, byID: map[string]*session{}, young: list.New(), done: list.New()}
}

// open starts a session and returns a copy of it. Its nonce is the challenge of
// the TEE's verifier, or random if there is none.
func (s *Sessions) open(tee, challenge string) session {
	id := make([]byte, idSize)
	_, _ = rand.Read(id) // never fails: the runtime ends the process instead
	n := &session{id: hex.EncodeToString(id), tee: tee, nonce: challenge, expires: s.now().Add(s.life)}
	if challenge == "" {
		nonce := make([]byte, nonceSize)
		_, _ = rand.Read(nonce)
		n.nonce = base64.StdEncoding.EncodeToString(nonce)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.makeRoom()
	n.place = s.young.PushBack(n)
	s.byID[n.id] = n
	return *n
}

// makeRoom drops what has expired and, if that is not enough, the oldest.
func (s *Sessions) makeRoom() {
	now := s.now()
	for _, l := range []*list.List{s.young, s.done} {
		for e := l.Front(); e != nil; e = l.Front() {
			n, ok := e.Value.(*session)
			if !ok || now.Before(n.expires) {
				break
			}
			s.remove(n)
		}
	}
	for len(s.byID) >= s.max {
		e := s.young.Front()
		if e == nil {
			e = s.done.Front()
		}
		n, ok := e.Value.(*session)
		if !ok {
			return
		}
		s.remove(n)
	}
}

func (s *Sessions) remove(n *session) {
	delete(s.byID, n.id)
	if n.phase == attested {
		s.held -= len(n.token)
		s.done.Remove(n.place)
		return
	}
	s.young.Remove(n.place)
}

func (s *Sessions) find(id string) (*session, error) {
	n, ok := s.byID[id]
	if !ok {
		return nil, fmt.Errorf("unknown or expired: %w", ErrSession)
	}
	if !s.now().Before(n.expires) {
		s.remove(n)
		return nil, fmt.Errorf("unknown or expired: %w", ErrSession)
	}
	return n, nil
}

// begin takes the one attempt of a session. For an attested session the copy
// that is returned has the token, and no attempt is taken.
func (s *Sessions) begin(id string) (session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.find(id)
	if err != nil {
		return session{}, err
	}
	if n.phase == evaluating {
		return session{}, fmt.Errorf("another attestation of it is in progress: %w", ErrSession)
	}
	if n.phase == challenged {
		n.phase = evaluating
	}
	return *n, nil
}

// finish marks the session as attested. Those with the oldest tokens end if
// all tokens together are too large.
func (s *Sessions) finish(id, token, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.find(id)
	if err != nil {
		return err
	}
	s.young.Remove(n.place)
	n.phase, n.token, n.key = attested, token, key
	n.place = s.done.PushBack(n)
	for s.held += len(token); s.held > maxHeld; {
		oldest, ok := s.done.Front().Value.(*session)
		if !ok || oldest == n {
			break
		}
		s.remove(oldest)
	}
	return nil
}

// drop ends a session whose attempt failed.
func (s *Sessions) drop(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, ok := s.byID[id]; ok {
		s.remove(n)
	}
}

// tokenOf returns the token of an attested session.
func (s *Sessions) tokenOf(id string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.find(id)
	if err != nil {
		return "", err
	}
	if n.phase != attested {
		return "", fmt.Errorf("not attested: %w", ErrSession)
	}
	return n.token, nil
}

// Len returns how many sessions are kept.
func (s *Sessions) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byID)
}
