// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cpio

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"path"
	"strings"

	"cocoon/rootfs/recipe"
)

const (
	magic      = "070701"
	headerSize = 110 // the magic and 13 numbers of 8 digits
	trailer    = "TRAILER!!!"
	maxName    = 4096 // the kernel's limit, with the zero byte
	// maxEntries is well above what a whole distribution's initramfs has.
	maxEntries = 1 << 17
)

// Errors that callers may want to tell apart.
var (
	// ErrArchive is wrapped by errors about what is no archive of this format,
	// or one that readers would not agree on.
	ErrArchive = errors.New("no archive of the format newc")
	// ErrTooMany means that an archive has more entries than are read.
	ErrTooMany = errors.New("too many entries in the archive")
)

// Read returns the entries of an archive that Write or another program made.
// Their content is that of b, not a copy. The kernel would go on behind the
// trailer, so that only zeros may stand there, and a file with several names is
// refused, since its content is with one of them.
func Read(b []byte) ([]recipe.Entry, error) {
	r := reader{b: b}
	var entries []recipe.Entry
	for {
		at := r.at
		e, err := r.entry()
		if err != nil {
			return nil, fmt.Errorf("read the archive, entry at byte %d: %w", at, err)
		}
		if e.Path == trailer {
			break
		}
		if len(entries) == maxEntries {
			return nil, fmt.Errorf("read the archive: more than %d: %w", maxEntries, ErrTooMany)
		}
		entries = append(entries, e)
	}
	if rest := bytes.TrimLeft(b[r.at:], "\x00"); len(rest) > 0 {
		return nil, fmt.Errorf("read the archive: %d bytes behind its trailer: %w", len(rest), ErrArchive)
	}
	return entries, nil
}

// reader takes an archive apart. What it returns lies within b.
type reader struct {
	b  []byte
	at int
}

// fields are the numbers of a header by their place.
type fields [13]uint32

func (f fields) mode() uint32 { return f[1] }
func (f fields) links() int   { return int(f[4]) }
func (f fields) size() int    { return int(f[6]) }
func (f fields) name() int    { return int(f[11]) }

// entry returns the one that r stands at, and goes behind it.
func (r *reader) entry() (recipe.Entry, error) {
	f, err := r.header()
	if err != nil {
		return recipe.Entry{}, err
	}
	if f.name() < 2 || f.name() > maxName {
		return recipe.Entry{}, fmt.Errorf("name of %d bytes: %w", f.name(), ErrArchive)
	}
	raw, err := r.take("name", f.name())
	if err != nil {
		return recipe.Entry{}, err
	}
	name, ok := strings.CutSuffix(string(raw), "\x00")
	if !ok || strings.Contains(name, "\x00") {
		return recipe.Entry{}, fmt.Errorf("name %.64q: %w", raw, ErrArchive)
	}
	data, err := r.take("content", f.size())
	if err != nil {
		return recipe.Entry{}, fmt.Errorf("%q: %w", name, err)
	}
	e := recipe.Entry{Path: name, Mode: f.mode(), Data: data, Major: f[9], Minor: f[10]}
	if e.Type() == recipe.TypeFile && f.links() > 1 {
		return recipe.Entry{}, fmt.Errorf("%q has %d names: %w", name, f.links(), ErrArchive)
	}
	if name != trailer {
		e.Path = path.Clean(strings.TrimLeft(name, "/"))
	}
	return e, nil
}

// header reads the numbers. The name behind them is part of what is aligned.
func (r *reader) header() (fields, error) {
	var f fields
	if len(r.b)-r.at < headerSize || string(r.b[r.at:r.at+len(magic)]) != magic {
		return f, fmt.Errorf("no header: %w", ErrArchive)
	}
	var raw [4 * len(f)]byte
	if _, err := hex.Decode(raw[:], r.b[r.at+len(magic):r.at+headerSize]); err != nil {
		return f, fmt.Errorf("header: %w: %w", ErrArchive, err)
	}
	for i := range f {
		f[i] = binary.BigEndian.Uint32(raw[4*i:])
	}
	r.at += headerSize
	return f, nil
}

// take returns the next size bytes and goes to the next multiple of four.
func (r *reader) take(what string, size int) ([]byte, error) {
	if size > math.MaxInt32 || size > len(r.b)-r.at {
		return nil, fmt.Errorf("%s of %d bytes, where %d are left: %w", what, size, len(r.b)-r.at, ErrArchive)
	}
	data := r.b[r.at : r.at+size : r.at+size]
	r.at = min((r.at+size+3)&^3, len(r.b))
	return data, nil
}
