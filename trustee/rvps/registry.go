// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package rvps keeps reference values: what the measurements of a good guest
// look like.
//
// Values are registered by the operator only, as a plain object, a CoRIM or an
// in-toto statement. Where the operator named signers the latter two count only
// with a signature by one of them. Values are queried by attestation policies,
// for which a value that has expired does not exist. All values lie
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
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cocoon/trustee/rvps/signer"
	"cocoon/trustee/store"
)

const (
	fileName = "reference-values.json"
	maxFile  = 16 << 20

	// lifeMonths is how long a value lives unless its sender says otherwise.
	lifeMonths = 12

	// maxYear is the last that RFC 3339 can write.
	maxYear = 9999
)

// Value is one registered reference value.
type Value struct {
	Version    string    `json:"version"`
	Name       string    `json:"name"`
	Expiration time.Time `json:"expiration"`
	Value      any       `json:"value"`
	// Signer is the SHA-256 of the key that vouched for the value, if one did.
	Signer string `json:"signer,omitempty"`
}

// Registry holds the values. It is safe for concurrent use; readers never wait
// for a writer.
type Registry struct {
	dir     *store.Dir
	now     func() time.Time
	signers []signer.Key

	write  sync.Mutex // one writer at a time, so that no registration is lost
	values atomic.Pointer[map[string]Value]
	edits  atomic.Uint64
}

// Open reads the values kept in dir. now tells the time for expirations. With
// signers, messages of the types that can be signed need the signature of one.
func Open(dir *store.Dir, now func() time.Time, signers ...signer.Key) (*Registry, error) {
	r := &Registry{dir: dir, now: now, signers: signers}
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
	reg, err := parseMessage(raw, r.signers)
	if err != nil {
		return err
	}
	expires, err := r.window(reg)
	if err != nil {
		return err
	}
	return r.change(func(all map[string]Value) error {
		for name, v := range reg.values {
			all[name] = Value{Version: MessageVersion, Name: name, Expiration: expires, Value: v, Signer: reg.signer}
		}
		if len(all) > maxNames {
			return fmt.Errorf("more than %d names: %w", maxNames, ErrBadMessage)
		}
		return nil
	})
}

// window returns when the values of reg expire, or why they do not count at
// this time.
func (r *Registry) window(reg *registration) (time.Time, error) {
	now, expires := r.now(), reg.expires
	if expires.IsZero() {
		expires = now.AddDate(0, lifeMonths, 0)
	}
	if !expires.After(now) {
		return time.Time{}, fmt.Errorf("expiration %s is past, it is %s: %w", rfc3339(expires), rfc3339(now), ErrBadMessage)
	}
	if reg.notBefore.After(now) {
		return time.Time{}, fmt.Errorf("not valid before %s, it is %s: %w", rfc3339(reg.notBefore), rfc3339(now), ErrBadMessage)
	}
	if y := expires.UTC().Year(); y > maxYear {
		return time.Time{}, fmt.Errorf("expiration in the year %d, at most %d: %w", y, maxYear, ErrBadMessage)
	}
	return expires.UTC().Truncate(time.Second), nil
}

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Names returns the names in an RVPS message that could be registered, in
// lexical order.
func (r *Registry) Names(raw []byte) ([]string, error) {
	reg, err := parseMessage(raw, r.signers)
	if err != nil {
		return nil, err
	}
	if _, err := r.window(reg); err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(reg.values)), nil
}

// Listed writes names in one line; one with a blank in it is quoted, so that it
// does not look like two.
func Listed(names []string) string {
	list := make([]string, 0, len(names))
	for _, n := range names {
		if strings.Contains(n, " ") {
			n = strconv.Quote(n)
		}
		list = append(list, n)
	}
	return strings.Join(list, " ")
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
