// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package rvps keeps reference values: what the measurements of a good guest
// look like.
//
// Values are registered by the operator only. They are queried by attestation
// policies, for which a value that has expired does not exist. All values lie
// in one file that is replaced whole.
package rvps

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cocoon/trustee/store"
)

const (
	fileName = "reference-values.json"
	maxFile  = 16 << 20

	// lifeMonths is how long a value lives unless its sender says otherwise.
	lifeMonths = 12
)

// Value is one registered reference value.
type Value struct {
	Version    string    `json:"version"`
	Name       string    `json:"name"`
	Expiration time.Time `json:"expiration"`
	Value      any       `json:"value"`
}

// Registry holds the values. It is safe for concurrent use; readers never wait
// for a writer.
type Registry struct {
	dir *store.Dir
	now func() time.Time

	write  sync.Mutex // one writer at a time, so that no registration is lost
	values atomic.Pointer[map[string]Value]
	edits  atomic.Uint64
}

// Open reads the values kept in dir. now tells the time for expirations.
func Open(dir *store.Dir, now func() time.Time) (*Registry, error) {
	r := &Registry{dir: dir, now: now}
	values := map[string]Value{}
	raw, err := dir.Read(fileName, maxFile)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("read reference values: %w", err)
	}
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if err := d.Decode(&values); err != nil {
			return nil, fmt.Errorf("parse %q: %w", fileName, err)
		}
		if _, err := d.Token(); values == nil || !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("parse %q: not one JSON object", fileName)
		}
	}
	r.values.Store(&values)
	return r, nil
}

// Register stores the values of an RVPS message. A value replaces an older one
// of the same name; the message is stored whole or not at all.
func (r *Registry) Register(raw []byte) error {
	values, expires, err := parseMessage(raw)
	if err != nil {
		return err
	}
	if expires.IsZero() {
		expires = r.now().AddDate(0, lifeMonths, 0)
	}
	if !expires.After(r.now()) {
		return fmt.Errorf("expiration %s is past: %w", expires.Format(time.RFC3339), ErrBadMessage)
	}
	return r.change(func(all map[string]Value) error {
		for name, v := range values {
			all[name] = Value{Version: MessageVersion, Name: name, Expiration: expires.UTC().Truncate(time.Second), Value: v}
		}
		if len(all) > maxNames {
			return fmt.Errorf("more than %d names: %w", maxNames, ErrBadMessage)
		}
		return nil
	})
}

// Names returns the names in an RVPS message, in lexical order.
func Names(raw []byte) ([]string, error) {
	values, _, err := parseMessage(raw)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(values)), nil
}

// Delete removes the value name, or returns store.ErrNotFound.
func (r *Registry) Delete(name string) error {
	return r.change(func(all map[string]Value) error {
		if _, ok := all[name]; !ok {
			return fmt.Errorf("reference value %q: %w", name, store.ErrNotFound)
		}
		delete(all, name)
		return nil
	})
}

// Query returns the value of name. Expired values are not found.
func (r *Registry) Query(name string) (any, bool) {
	v, ok := (*r.values.Load())[name]
	if !ok || !r.now().Before(v.Expiration) {
		return nil, false
	}
	return v.Value, true
}

// Edits counts the changes since the registry was opened.
func (r *Registry) Edits() uint64 { return r.edits.Load() }

// List returns all values by name, the expired ones included.
func (r *Registry) List() []Value {
	all := *r.values.Load()
	list := make([]Value, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, all[name])
	}
	return list
}

// change edits a copy, makes it durable, and only then lets readers see it.
func (r *Registry) change(edit func(map[string]Value) error) error {
	r.write.Lock()
	defer r.write.Unlock()
	all := maps.Clone(*r.values.Load())
	if err := edit(all); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return fmt.Errorf("encode reference values: %w", err)
	}
	if len(raw) > maxFile {
		return fmt.Errorf("reference values of %d bytes, at most %d: %w", len(raw), maxFile, ErrBadMessage)
	}
	if err := r.dir.Write(fileName, raw); err != nil {
		return err
	}
	r.values.Store(&all)
	r.edits.Add(1)
	return nil
}
