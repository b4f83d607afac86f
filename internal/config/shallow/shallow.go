// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package shallow decodes TOML that a stranger wrote.
//
// The documents of the guest (initdata, aa.toml, cdh.toml, agent.toml) come
// from the host before anything is verified. The TOML decoder recurses once
// per nested array and keeps memory quadratic in the length of a dotted key,
// so that a few hundred kilobytes would exhaust the guest. This package looks
// at the punctuation first, outside of strings and comments, and refuses what
// no configuration file needs.
package shallow

import (
	"errors"
	"fmt"

	"github.com/BurntSushi/toml"

	"cocoon/internal/bounded"
)

// Limits of the punctuation outside of strings and comments.
const (
	// MaxDepth is how deep arrays and inline tables may nest.
	MaxDepth = 16
	// MaxKeyParts is how many parts a dotted key may have.
	MaxKeyParts = 16
	// MaxTokens bounds keys, table headers and elements together.
	MaxTokens = 16384
)

// ErrShape is returned for a document that nests deeper, or holds more keys,
// than a configuration file needs.
var ErrShape = errors.New("document has an unreasonable shape")

// ErrSyntax is returned for a document that is not TOML.
var ErrSyntax = errors.New("not valid TOML")

// ErrType is returned for a value whose type does not fit its key.
var ErrType = errors.New("value of the wrong type")

// Decode decodes data, at most limit bytes, into the value v points to. The
// metadata names the keys that v had no place for. Errors name keys and lines,
// never values.
func Decode(data []byte, limit int, v any) (toml.MetaData, error) {
	if len(data) > limit {
		return toml.MetaData{}, fmt.Errorf("more than %d bytes: %w", limit, bounded.ErrTooLarge)
	}
	if err := check(data); err != nil {
		return toml.MetaData{}, err
	}
	md, err := toml.Decode(string(data), v)
	return md, describe(err)
}

// describe reduces a syntax error to its position: the decoder's own text
// quotes the document, which may hold a token or a key.
func describe(err error) error {
	if err == nil {
		return nil
	}
	if p, ok := errors.AsType[toml.ParseError](err); ok {
		return fmt.Errorf("line %d, key %.60q: %w", p.Position.Line, p.LastKey, ErrSyntax)
	}
	return fmt.Errorf("%w: %w", ErrType, err)
}

// check walks the punctuation of data. It may misjudge a document that is not
// TOML, but only from the first error on, where the decoder stops as well.
func check(data []byte) error {
	var s scan
	for i := 0; i < len(data); {
		switch c := data[i]; c {
		case '#':
			i = skipLine(data, i)
		case '"', '\'':
			i = skipString(data, i)
		default:
			if err := s.punctuation(c); err != nil {
				return fmt.Errorf("byte %d: %w", i, err)
			}
			i++
		}
	}
	return nil
}

type scan struct{ depth, dots, tokens int }

func (s *scan) punctuation(c byte) error {
	switch c {
	case '[', '{':
		s.depth++
		s.tokens++
	case ']', '}':
		s.depth = max(s.depth-1, 0)
	case '=', ',':
		s.tokens++
	case '.':
		s.dots++
	}
	switch c {
	case '[', ']', '{', '}', '=', ',', '\n':
		s.dots = 0
	}
	switch {
	case s.depth > MaxDepth:
		return fmt.Errorf("nested deeper than %d: %w", MaxDepth, ErrShape)
	case s.dots >= MaxKeyParts:
		return fmt.Errorf("key of more than %d parts: %w", MaxKeyParts, ErrShape)
	case s.tokens > MaxTokens:
		return fmt.Errorf("more than %d keys and elements: %w", MaxTokens, ErrShape)
	}
	return nil
}

func skipLine(data []byte, i int) int {
	for i < len(data) && data[i] != '\n' {
		i++
	}
	return i
}

// skipString returns the index behind the string that begins at i.
func skipString(data []byte, i int) int {
	q := data[i]
	if !triple(data, i) {
		return skipSimple(data, i+1, q)
	}
	for i += 3; i < len(data); i++ {
		switch {
		case q == '"' && data[i] == '\\':
			i++
		case data[i] == q && triple(data, i):
			i += 3
			// Up to two more quotes belong to the string's content.
			for n := 0; n < 2 && i < len(data) && data[i] == q; n++ {
				i++
			}
			return i
		}
	}
	return len(data)
}

func skipSimple(data []byte, i int, q byte) int {
	for ; i < len(data); i++ {
		switch {
		case q == '"' && data[i] == '\\':
			i++
		case data[i] == q:
			return i + 1
		case data[i] == '\n':
			return i
		}
	}
	return len(data)
}

func triple(data []byte, i int) bool {
	return i+2 < len(data) && data[i+1] == data[i] && data[i+2] == data[i]
}
