// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// The files of a journal, as peers know them.
const (
	// Dir is where they lie.
	Dir = "/run/attestation-agent"
	// File holds the entries.
	File    = "eventlog"
	walFile = ".wal_event_entry"
)

// maxJournal bounds the entries, in bytes: they lie in memory and go into
// evidence, which key brokers take up to a size only.
const maxJournal = 1 << 20

// Registers are the runtime measurement registers of a TEE.
type Registers interface {
	// Alg is the algorithm by which registers are extended.
	Alg() Alg
	// Extend extends the register of a measurement register index.
	Extend(ctx context.Context, register uint32, digest []byte) error
	// Read returns the value of the register.
	Read(ctx context.Context, register uint32) ([]byte, error)
}

// Errors that callers branch on.
var (
	// ErrCorrupt is returned if the entries on disk are not those that the
	// registers were extended with.
	ErrCorrupt = errors.New("the event log does not fit the registers")
	// ErrFull is returned if the journal takes no more entries.
	ErrFull = errors.New("the event log is full")
)

// Journal writes entries of the attestation agent. An entry and the extension
// of its register happen together or, after a crash in between, are brought
// together when the journal is opened again. It is safe for concurrent use.
type Journal struct {
	dir  string
	regs Registers
	log  *os.File
	turn chan struct{} // holds one token; its owner may use size and the files
	size int64
}

// Open opens the journal in dir and finishes an entry that was begun.
func Open(ctx context.Context, dir string, regs Registers) (_ *Journal, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the event log: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, File), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the event log: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	j := &Journal{dir: dir, regs: regs, log: f, turn: make(chan struct{}, 1)}
	if err := j.recover(ctx); err != nil {
		return nil, err
	}
	if j.size, err = f.Seek(0, io.SeekEnd); err != nil {
		return nil, fmt.Errorf("measure the event log: %w", err)
	}
	j.turn <- struct{}{}
	return j, nil
}

// Close closes the journal, after a measurement that is under way.
func (j *Journal) Close() error {
	<-j.turn
	return j.log.Close()
}

// Freeze keeps entries from being added until thaw is called, so that evidence
// and log belong together.
func (j *Journal) Freeze(ctx context.Context) (thaw func(), err error) {
	select {
	case <-j.turn:
		return func() { j.turn <- struct{}{} }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the event log: %w", ctx.Err())
	}
}

// Measure extends a register with an entry and logs it.
func (j *Journal) Measure(ctx context.Context, register uint32, e Entry) error {
	if err := e.Check(); err != nil {
		return err
	}
	event := e.Event(register, j.regs.Alg())
	thaw, err := j.Freeze(ctx)
	if err != nil {
		return err
	}
	defer thaw()
	line := event.Append(nil)
	if j.size+int64(len(line)) > maxJournal {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrFull, j.size, maxJournal)
	}
	old, err := j.regs.Read(ctx, register)
	if err != nil {
		return fmt.Errorf("read the register: %w", err)
	}
	w := wal{offset: uint64(j.size), expected: j.regs.Alg().Sum(old, event.Sum(j.regs.Alg())), line: line}
	if err := j.writeWAL(w); err != nil {
		return err
	}
	if err := j.regs.Extend(ctx, register, event.Sum(j.regs.Alg())); err != nil {
		return errors.Join(fmt.Errorf("extend the register: %w", err), j.dropUnless(ctx, register, w))
	}
	return j.finish(w)
}

// dropUnless removes the note of an entry whose extension failed, but not if it
// took place nevertheless.
func (j *Journal) dropUnless(ctx context.Context, register uint32, w wal) error {
	now, err := j.regs.Read(context.WithoutCancel(ctx), register)
	if err != nil {
		return fmt.Errorf("read the register: %w", err)
	}
	if bytes.Equal(now, w.expected) {
		return j.finish(w)
	}
	return os.Remove(j.walPath())
}

// wal is the note of an entry that is being made.
type wal struct {
	offset   uint64
	expected []byte // value of the register afterwards
	line     []byte // the entry in its binary form
}

func (j *Journal) walPath() string { return filepath.Join(j.dir, walFile) }

func (j *Journal) writeWAL(w wal) error {
	b := binary.BigEndian.AppendUint64(nil, w.offset)
	b = append(append(b, w.expected...), w.line...)
	f, err := os.OpenFile(j.walPath(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("note the measurement: %w", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("note the measurement: %w", err), os.Remove(j.walPath()))
	}
	return nil
}

// finish logs an entry whose register was extended. The place is that of the
// note, so that half an entry is written over.
func (j *Journal) finish(w wal) error {
	_, err := j.log.WriteAt(w.line, int64(w.offset))
	if err = errors.Join(err, j.log.Sync()); err != nil {
		return fmt.Errorf("write the event log: %w", err)
	}
	j.size = int64(w.offset) + int64(len(w.line))
	if err := os.Remove(j.walPath()); err != nil {
		return fmt.Errorf("remove the note of a measurement: %w", err)
	}
	return nil
}

// recover finishes what the note tells of, if there is one.
func (j *Journal) recover(ctx context.Context) error {
	b, err := os.ReadFile(j.walPath())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the note of a measurement: %w", err)
	}
	w, event, err := j.parseWAL(b)
	if err != nil {
		return fmt.Errorf("%w: note of a measurement: %w", ErrCorrupt, err)
	}
	now, err := j.regs.Read(ctx, event.Register)
	if err != nil {
		return fmt.Errorf("read the register: %w", err)
	}
	a := j.regs.Alg()
	switch {
	case bytes.Equal(now, w.expected):
	case bytes.Equal(a.Sum(now, event.Sum(a)), w.expected):
		if err := j.regs.Extend(ctx, event.Register, event.Sum(a)); err != nil {
			return fmt.Errorf("extend the register: %w", err)
		}
	default:
		return fmt.Errorf("%w: somebody else has extended register %d", ErrCorrupt, event.Register)
	}
	return j.finish(w)
}

func (j *Journal) parseWAL(b []byte) (wal, Event, error) {
	size := j.regs.Alg().Size()
	if len(b) < 8+size {
		return wal{}, Event{}, errShort
	}
	w := wal{offset: binary.BigEndian.Uint64(b), expected: b[8:][:size], line: b[8+size:]}
	if w.offset > maxJournal {
		return w, Event{}, fmt.Errorf("offset %d", w.offset)
	}
	l := &Log{Algs: []Alg{j.regs.Alg()}}
	r := &reader{b: w.line}
	e, err := l.event(r)
	if err == nil && (r.at != len(w.line) || len(e.Digests) != 1) {
		err = errors.New("it is not one entry")
	}
	return w, e, err
}
