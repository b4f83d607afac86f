// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"

	"cocoon/trustee/store"
)

const (
	maxNames = 100_000
	// depth is that of repository/type/tag.
	depth = 3
)

// errForm is returned for an entry that is none of a broker.
var errForm = errors.New(`the entry has no field "data" with text or a list of bytes`)

// place returns the path of the API for an entry: kind is "data" or "metadata"
// in version 2, which tells content from its history.
func (r *Resources) place(kind, entry string) string {
	if r.cfg.Version == 1 {
		kind = ""
	}
	return path.Join(r.cfg.Mount, kind, r.cfg.Prefix, entry)
}

// Get returns the bytes of p, or store.ErrNotFound.
func (r *Resources) Get(ctx context.Context, p store.Path) ([]byte, error) {
	var fields map[string]json.RawMessage
	var err error
	found := false
	if r.cfg.Version == 1 {
		var a struct{ Data map[string]json.RawMessage }
		found, err = r.call(ctx, http.MethodGet, r.place("", p.String()), nil, &a)
		fields = a.Data
	} else {
		var a struct {
			Data struct{ Data map[string]json.RawMessage }
		}
		found, err = r.call(ctx, http.MethodGet, r.place("data", p.String()), nil, &a)
		fields = a.Data.Data
	}
	if err != nil {
		return nil, fmt.Errorf("%q: %w", p, err)
	}
	if !found {
		return nil, fmt.Errorf("%q: %w", p, store.ErrNotFound)
	}
	secret, err := decode(fields["data"])
	if err != nil {
		return nil, fmt.Errorf("%q in Vault: %w: %w", p, store.ErrUnavailable, err)
	}
	return secret, nil
}

// decode reads the field: a list of bytes, or a text.
func decode(raw json.RawMessage) ([]byte, error) {
	var text *string
	if json.Unmarshal(raw, &text) == nil && text != nil {
		return checked([]byte(*text))
	}
	var list []*uint8 // pointers, since null would be taken for 0
	if json.Unmarshal(raw, &list) != nil || list == nil {
		return nil, errForm
	}
	secret := make([]byte, len(list))
	for i, b := range list {
		if b == nil {
			return nil, errForm
		}
		secret[i] = *b
	}
	return checked(secret)
}

func checked(secret []byte) ([]byte, error) {
	if len(secret) > store.MaxResource {
		return nil, fmt.Errorf("the entry has %d bytes, at most %d", len(secret), store.MaxResource)
	}
	return secret, nil
}

// encode makes the body that stores a secret.
func encode(secret []byte, version int) []byte {
	b := make([]byte, 0, 4*len(secret)+32)
	b = append(b, `{"data":[`...)
	for i, c := range secret {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(c), 10)
	}
	b = append(b, `]}`...)
	if version == 2 {
		b = append(append([]byte(`{"data":`), b...), '}')
	}
	return b
}

// Set stores secret as p. In version 2 it becomes the newest of the entry's
// versions, and the others stay.
func (r *Resources) Set(ctx context.Context, p store.Path, secret []byte) error {
	found, err := r.call(ctx, http.MethodPost, r.place("data", p.String()), encode(secret, r.cfg.Version), nil)
	if err == nil && !found {
		err = fmt.Errorf("the mount %q is not there: %w", r.cfg.Mount, store.ErrUnavailable)
	}
	if err != nil {
		return fmt.Errorf("store %q: %w", p, err)
	}
	return nil
}

// Delete removes p with all its versions, or returns store.ErrNotFound.
func (r *Resources) Delete(ctx context.Context, p store.Path) error {
	at := r.place("metadata", p.String())
	found, err := r.call(ctx, http.MethodGet, at, nil, nil)
	if err == nil && found {
		_, err = r.call(ctx, http.MethodDelete, at, nil, nil)
	}
	if err != nil {
		return fmt.Errorf("delete %q: %w", p, err)
	}
	if !found {
		return fmt.Errorf("%q: %w", p, store.ErrNotFound)
	}
	return nil
}

// List returns the paths of all secrets in lexical order. Entries whose path is
// not one of a secret are somebody else's, and left out.
func (r *Resources) List(ctx context.Context) ([]string, error) {
	names, err := r.list(ctx, "", 1)
	if err != nil {
		return nil, fmt.Errorf("list secrets: %w", err)
	}
	slices.Sort(names)
	return names, nil
}

func (r *Resources) list(ctx context.Context, below string, level int) ([]string, error) {
	var a struct{ Data struct{ Keys []string } }
	if _, err := r.call(ctx, http.MethodGet, r.place("metadata", below)+"?list=true", nil, &a); err != nil {
		return nil, err
	}
	var names []string
	for _, k := range a.Data.Keys {
		dir, isDir := strings.CutSuffix(k, "/")
		name := path.Join(below, dir)
		switch {
		case !segment(dir):
		case !isDir && level == depth:
			names = append(names, name)
		case isDir && level < depth:
			more, err := r.list(ctx, name, level+1)
			if err != nil {
				return nil, err
			}
			names = append(names, more...)
		}
		if len(names) > maxNames {
			return nil, fmt.Errorf("more than %d: %w", maxNames, store.ErrUnavailable)
		}
	}
	return names, nil
}

// segment tells whether s can be a part of a secret's path.
func segment(s string) bool {
	_, err := store.ParsePath("a/b/" + s)
	return err == nil
}
