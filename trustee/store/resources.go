// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

const (
	// MaxResource is the size of the largest secret, in bytes. It is the
	// default body limit of the upstream broker.
	MaxResource = 2 << 20

	maxResources = 100_000
	maxSegment   = 128
)

// ErrBadName is returned for names that no resource or policy can have.
var ErrBadName = errors.New("invalid name")

// ErrUnavailable is returned where whoever keeps the secrets cannot be asked, or
// refuses the broker. Nothing is known about the secret then.
var ErrUnavailable = errors.New("the store of secrets does not serve the broker")

// Path is the validated name repository/type/tag of a resource.
type Path struct {
	Repository, Type, Tag string
}

// ParsePath checks s, which a client chose: exactly three segments, each of
// letters, digits, "_", "-" and, except at its start, ".".
func ParsePath(s string) (Path, error) {
	seg := strings.Split(s, "/")
	if len(seg) != 3 {
		return Path{}, fmt.Errorf("resource path has %d segments, want repository/type/tag: %w", len(seg), ErrBadName)
	}
	for _, x := range seg {
		if err := checkSegment(x); err != nil {
			return Path{}, err
		}
	}
	return Path{Repository: seg[0], Type: seg[1], Tag: seg[2]}, nil
}

// String returns repository/type/tag.
func (p Path) String() string { return p.Repository + "/" + p.Type + "/" + p.Tag }

// Segments returns the three parts in order, as the resource policy sees them.
func (p Path) Segments() []string { return []string{p.Repository, p.Type, p.Tag} }

func checkSegment(s string) error {
	if s == "" || len(s) > maxSegment {
		return fmt.Errorf("segment of %d bytes, want 1 to %d: %w", len(s), maxSegment, ErrBadName)
	}
	for i := range len(s) {
		if !segmentByte(s[i]) && (i == 0 || s[i] != '.') {
			return fmt.Errorf("segment %q has byte %q at %d: %w", s, s[i], i, ErrBadName)
		}
	}
	return nil
}

func segmentByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// Resources are the secrets, one file each at repository/type/tag. Files that
// the operator puts there by hand are served as well.
type Resources struct {
	dir *Dir
}

// NewResources serves the secrets below d.
func NewResources(d *Dir) *Resources { return &Resources{dir: d} }

// Get returns the bytes of p, or ErrNotFound.
func (r *Resources) Get(_ context.Context, p Path) ([]byte, error) {
	return r.dir.Read(p.String(), MaxResource)
}

// Set stores data as p, replacing what was there.
func (r *Resources) Set(_ context.Context, p Path, data []byte) error {
	return r.dir.Write(p.String(), data)
}

// Delete removes p, or returns ErrNotFound.
func (r *Resources) Delete(_ context.Context, p Path) error { return r.dir.Remove(p.String()) }

// List returns the names of all secrets in lexical order.
func (r *Resources) List(_ context.Context) ([]string, error) {
	files, err := r.dir.Files(maxResources)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(files))
	for _, f := range files {
		if _, err := ParsePath(f); err == nil {
			names = append(names, f)
		}
	}
	return names, nil
}
