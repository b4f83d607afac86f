// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"cocoon/trustee/store"
)

const (
	suffix      = ".rego"
	maxPolicies = 256
	maxID       = 64
)

// Set holds policies by id, each in a file <id>.rego over a built-in default.
// It is safe for concurrent use; readers never wait for a writer.
type Set struct {
	dir *store.Dir

	write  sync.Mutex // one writer at a time, so that no policy is lost
	active atomic.Pointer[map[string]*Policy]
	edits  atomic.Uint64
}

// OpenSet loads the policies kept in dir over defaults, which maps ids to
// texts. A file that does not compile is an error: falling back to a default
// could open what its owner closed.
func OpenSet(dir *store.Dir, defaults map[string]string) (*Set, error) {
	active := map[string]*Policy{}
	for id, text := range defaults {
		p, err := Compile(text)
		if err != nil {
			return nil, fmt.Errorf("built-in policy %q: %w", id, err)
		}
		active[id] = p
	}
	files, err := dir.Files(maxPolicies)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		id, ok := strings.CutSuffix(f, suffix)
		if !ok || checkID(id) != nil {
			return nil, fmt.Errorf("%q is no policy file", f)
		}
		text, err := dir.Read(f, MaxText)
		if err != nil {
			return nil, err
		}
		if active[id], err = Compile(string(text)); err != nil {
			return nil, fmt.Errorf("policy file %q: %w", f, err)
		}
	}
	s := &Set{dir: dir}
	s.active.Store(&active)
	return s, nil
}

// Get returns the policy id, or store.ErrNotFound.
func (s *Set) Get(id string) (*Policy, error) {
	p, ok := (*s.active.Load())[id]
	if !ok {
		return nil, fmt.Errorf("policy %q: %w", id, store.ErrNotFound)
	}
	return p, nil
}

// Put compiles text, stores it as id and makes it the active policy. On any
// error the policy that was active before stays.
func (s *Set) Put(id, text string) error {
	if err := checkID(id); err != nil {
		return err
	}
	p, err := Compile(text)
	if err != nil {
		return err
	}
	s.write.Lock()
	defer s.write.Unlock()
	active := maps.Clone(*s.active.Load())
	active[id] = p
	if len(active) > maxPolicies {
		return fmt.Errorf("more than %d policies", maxPolicies)
	}
	if err := s.dir.Write(id+suffix, []byte(text)); err != nil {
		return err
	}
	s.active.Store(&active)
	s.edits.Add(1)
	return nil
}

// Edits counts the changes since the set was opened.
func (s *Set) Edits() uint64 { return s.edits.Load() }

// IDs returns the ids of all policies in lexical order.
func (s *Set) IDs() []string { return slices.Sorted(maps.Keys(*s.active.Load())) }

func checkID(id string) error {
	if id == "" || len(id) > maxID {
		return fmt.Errorf("policy id of %d bytes, want 1 to %d: %w", len(id), maxID, store.ErrBadName)
	}
	bad := strings.IndexFunc(id, func(r rune) bool {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-'
		return !ok
	})
	if bad >= 0 {
		return fmt.Errorf("policy id %q: %w", id, store.ErrBadName)
	}
	return nil
}
