// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package eventlog reads, replays and writes the logs of what was measured into
// a guest's registers: the firmware's, in the CCEL table of ACPI, and that of
// the attestation agent (AAEL), which continues it.
//
// The form is that of the TCG PC Client Platform Firmware Profile, section 10;
// the entries of the agent are described in Trustee's document
// confidential-containers-eventlog.
//
// Trust: a log is a claim, of the firmware to the guest and of the guest to a
// verifier. It says something only where its replay gives the registers that
// the hardware signed. It is pure code that both sides share.
package eventlog

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"

	"cocoon/internal/sm3"
)

// Alg is a digest algorithm as TCG numbers it.
type Alg uint16

// The algorithms.
const (
	SHA1   Alg = 0x0004 // in logs of TPMs; nothing here computes it
	SHA256 Alg = 0x000B
	SHA384 Alg = 0x000C
	SHA512 Alg = 0x000D
	SM3    Alg = 0x0012
)

// Size is that of a digest in bytes, 0 for an unknown algorithm.
func (a Alg) Size() int {
	switch a {
	case SHA1:
		return sha1Size
	case SHA256, SM3:
		return 32
	case SHA384:
		return 48
	case SHA512:
		return 64
	}
	return 0
}

// String is the algorithm's name as Trustee writes it.
func (a Alg) String() string {
	switch a {
	case SHA1:
		return "SHA-1"
	case SHA256:
		return "SHA-256"
	case SHA384:
		return "SHA-384"
	case SHA512:
		return "SHA-512"
	case SM3:
		return "SM3"
	}
	return fmt.Sprintf("algorithm %#x", uint16(a))
}

// New returns the hash function, nil for one that this code cannot compute.
func (a Alg) New() hash.Hash {
	switch a {
	case SHA256:
		return sha256.New()
	case SHA384:
		return sha512.New384()
	case SHA512:
		return sha512.New()
	case SM3:
		return sm3.New()
	}
	return nil
}

// Sum returns the digest of b, nil for an algorithm that cannot be computed.
func (a Alg) Sum(b ...[]byte) []byte {
	h := a.New()
	if h == nil {
		return nil
	}
	for _, part := range b {
		h.Write(part) //nolint:errcheck // a hash does not fail
	}
	return h.Sum(nil)
}

// Types of events that have a meaning of their own here.
const (
	EvNoAction = 0x3
	EvTag      = 0x6
)

// Digest is what was extended.
type Digest struct {
	Alg Alg
	Sum []byte
}

// Event is one entry.
type Event struct {
	Register uint32 // index of the measurement register
	Type     uint32
	Digests  []Digest
	Data     []byte
}

// Sum returns the digest by an algorithm, nil if there is none.
func (e Event) Sum(a Alg) []byte {
	for _, d := range e.Digests {
		if d.Alg == a {
			return d.Sum
		}
	}
	return nil
}

// Log is a parsed log.
type Log struct {
	Algs   []Alg
	Events []Event
	// Size is how many bytes of the input are the log, without its end mark.
	Size int
}

// ErrLog is returned for what is no event log.
var ErrLog = errors.New("invalid event log")

// MaxSize bounds a log, in bytes.
const MaxSize = 2 << 20

const (
	maxEvents  = 1 << 16
	maxDigests = 8
	maxAlgs    = 16
	sha1Size   = 20
	endMark    = 8 // bytes of 0xFF, or of zero where the area is empty
)

// Parse reads a log up to its end mark or the end of b.
func Parse(b []byte) (*Log, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrLog, len(b), MaxSize)
	}
	r := &reader{b: b}
	l := &Log{}
	if err := l.header(r); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrLog, err)
	}
	for !r.atEnd() {
		if len(l.Events) == maxEvents {
			return nil, fmt.Errorf("%w: more than %d events", ErrLog, maxEvents)
		}
		e, err := l.event(r)
		if err != nil {
			return nil, fmt.Errorf("%w: event %d: %w", ErrLog, len(l.Events), err)
		}
		l.Events = append(l.Events, e)
	}
	l.Size = r.at
	return l, nil
}

// header reads the first entry, of the older form, which tells the algorithms.
func (l *Log) header(r *reader) error {
	r.skip(4) // register
	if t := r.u32(); r.err == nil && t != EvNoAction {
		return fmt.Errorf("its type is %#x, want %#x", t, EvNoAction)
	}
	r.skip(sha1Size)
	data := &reader{b: r.bytes(int64(r.u32()))}
	if r.err != nil {
		return r.err
	}
	data.skip(24) // signature, class and version
	n := data.u32()
	if data.err == nil && (n == 0 || n > maxAlgs) {
		return fmt.Errorf("%d algorithms", n)
	}
	for range n {
		a, size := Alg(data.u16()), data.u16()
		if data.err != nil {
			return data.err
		}
		if known := a.Size(); known != 0 && known != int(size) {
			return fmt.Errorf("digests of %s have %d bytes", a, size)
		}
		l.Algs = append(l.Algs, a)
	}
	return data.err
}

func (l *Log) event(r *reader) (Event, error) {
	e := Event{Register: r.u32(), Type: r.u32()}
	n := r.u32()
	if r.err == nil && n > maxDigests {
		return e, fmt.Errorf("%d digests", n)
	}
	for range n {
		a := Alg(r.u16())
		if r.err != nil {
			return e, r.err
		}
		if !l.declares(a) || a.Size() == 0 {
			return e, fmt.Errorf("%s is not one of the log's algorithms", a)
		}
		e.Digests = append(e.Digests, Digest{a, r.bytes(int64(a.Size()))})
	}
	e.Data = r.bytes(int64(r.u32()))
	return e, r.err
}

func (l *Log) declares(a Alg) bool {
	for _, known := range l.Algs {
		if known == a {
			return true
		}
	}
	return false
}

// Replay returns the registers that have entries, each with the value that
// extending their digests gives. Register 0 is none.
func (l *Log) Replay(a Alg) (map[uint32][]byte, error) {
	values := map[uint32][]byte{}
	for i, e := range l.Events {
		if e.Type == EvNoAction {
			continue
		}
		sum := e.Sum(a)
		if sum == nil {
			return nil, fmt.Errorf("%w: event %d has no digest by %s", ErrLog, i, a)
		}
		old, ok := values[e.Register]
		if !ok {
			old = make([]byte, a.Size())
		}
		if values[e.Register] = a.Sum(old, sum); values[e.Register] == nil {
			return nil, fmt.Errorf("%w: %s cannot be computed", ErrLog, a)
		}
	}
	return values, nil
}

// Only returns an error for an event of a register outside first to last: no
// comparison of registers would say anything about it. Events that extend
// nothing may have any.
func (l *Log) Only(first, last uint32) error {
	for i, e := range l.Events {
		if e.Type != EvNoAction && (e.Register < first || e.Register > last) {
			return fmt.Errorf("%w: event %d is of register %d, want %d to %d", ErrLog, i, e.Register, first, last)
		}
	}
	return nil
}

// reader takes little-endian numbers. After the first that is not there it
// gives zeros and keeps the error.
type reader struct {
	b   []byte
	at  int
	err error
}

var errShort = errors.New("it is cut short")

func (r *reader) bytes(n int64) []byte {
	if r.err != nil || n > int64(len(r.b)-r.at) {
		r.err = errShort
		return nil
	}
	b := r.b[r.at:][:n:n]
	r.at += int(n)
	return b
}

func (r *reader) skip(n int64) { r.bytes(n) }

func (r *reader) u16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// atEnd tells whether the log ends here: at the end of the bytes, or at a mark.
func (r *reader) atEnd() bool {
	rest := r.b[r.at:]
	if len(rest) < endMark {
		return len(bytes.Trim(rest, "\xff\x00")) == 0
	}
	mark := rest[:endMark]
	return bytes.Count(mark, []byte{0xff}) == endMark || bytes.Count(mark, []byte{0}) == endMark
}
