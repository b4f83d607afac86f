// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// registers play a TEE's.
type registers struct {
	mu     sync.Mutex
	values map[uint32][]byte
	extend error // instead of extending
	after  error // after extending
	read   error
}

func (r *registers) Alg() Alg { return SHA384 }

func (r *registers) Extend(_ context.Context, n uint32, digest []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.extend != nil {
		return r.extend
	}
	r.values[n] = SHA384.Sum(r.value(n), digest)
	return r.after
}

func (r *registers) Read(_ context.Context, n uint32) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.value(n), r.read
}

func (r *registers) value(n uint32) []byte {
	if v, ok := r.values[n]; ok {
		return v
	}
	return make([]byte, 48)
}

func newRegisters() *registers { return &registers{values: map[uint32][]byte{}} }

func open(t *testing.T, dir string, r *registers) *Journal {
	t.Helper()
	j, err := Open(t.Context(), dir, r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

// fits checks that the log replays to the registers, and returns its length.
func fits(t *testing.T, dir string, r *registers) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, File))
	if err != nil {
		t.Fatal(err)
	}
	l, err := Parse(append(Header(), b...))
	if err != nil {
		t.Fatal(err)
	}
	got, err := l.Replay(SHA384)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(r.values) {
		t.Errorf("%d registers in the log, %d extended", len(got), len(r.values))
	}
	for n, v := range r.values {
		if !bytes.Equal(got[n], v) {
			t.Errorf("register %d is %x, the log gives %x", n, v, got[n])
		}
	}
	if _, err := os.Stat(filepath.Join(dir, walFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a note is left: %v", err)
	}
	return len(l.Events)
}

func TestTheJournalReplaysToTheRegisters(t *testing.T) {
	t.Parallel()
	dir, r := t.TempDir(), newRegisters()
	j := open(t, dir, r)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := j.Measure(t.Context(), uint32(3+i%2), Entry{"d", "o", fmt.Sprint(i)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := fits(t, dir, r); n != 20 {
		t.Errorf("%d entries", n)
	}
	again := open(t, dir, r)
	if err := again.Measure(t.Context(), 4, Entry{"d", "o", "after a restart"}); err != nil {
		t.Fatal(err)
	}
	if n := fits(t, dir, r); n != 21 {
		t.Errorf("%d entries after a restart", n)
	}
	if err := j.Measure(t.Context(), 4, Entry{"d d", "o", ""}); !errors.Is(err, ErrEntry) {
		t.Error(err)
	}
}

func TestAnExtensionThatFailsLeavesNoEntry(t *testing.T) {
	t.Parallel()
	dir, r := t.TempDir(), newRegisters()
	j := open(t, dir, r)
	broken := errors.New("broken")
	r.extend = broken
	if err := j.Measure(t.Context(), 4, Entry{"d", "o", "1"}); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if n := fits(t, dir, r); n != 0 {
		t.Errorf("%d entries", n)
	}
	// An error of an extension that took place: the log must follow it.
	r.extend, r.after = nil, broken
	if err := j.Measure(t.Context(), 4, Entry{"d", "o", "2"}); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if n := fits(t, dir, r); n != 1 {
		t.Errorf("%d entries", n)
	}
	r.after, r.read = nil, broken
	if err := j.Measure(t.Context(), 4, Entry{"d", "o", "3"}); !errors.Is(err, broken) {
		t.Fatal(err)
	}
}

func TestACrashInTheMiddleIsMended(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		extended bool
		written  int // bytes of the entry
	}{"before the extension": {false, 0}, "after the extension": {true, 0}, "in the log": {true, 20}} {
		dir, r := t.TempDir(), newRegisters()
		j := open(t, dir, r)
		if err := j.Measure(t.Context(), 4, Entry{"d", "o", "first"}); err != nil {
			t.Fatal(err)
		}
		e := Entry{"d", "o", "second"}.Event(4, SHA384)
		w := wal{offset: uint64(j.size), expected: SHA384.Sum(r.value(4), e.Sum(SHA384)), line: e.Append(nil)}
		if err := j.writeWAL(w); err != nil {
			t.Fatal(err)
		}
		if tc.extended {
			if err := r.Extend(t.Context(), 4, e.Sum(SHA384)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := j.log.WriteAt(w.line[:tc.written], j.size); err != nil {
			t.Fatal(err)
		}
		open(t, dir, r)
		if n := fits(t, dir, r); n != 2 {
			t.Errorf("%s: %d entries", name, n)
		}
	}
}

func TestAJournalThatDoesNotFitIsNotOpened(t *testing.T) {
	t.Parallel()
	e := Entry{"d", "o", "x"}.Event(4, SHA384)
	good := append(append(make([]byte, 8), SHA384.Sum(make([]byte, 48), e.Sum(SHA384))...), e.Append(nil)...)
	for name, b := range map[string][]byte{
		"extended by another": good, "short": good[:20], "half an entry": good[:len(good)-1], "more than one": append(bytes.Clone(good), 0),
		"a far offset": append([]byte{1}, good[1:]...), "nothing": {},
	} {
		dir, r := t.TempDir(), newRegisters()
		r.values[4] = bytes.Repeat([]byte{1}, 48)
		if err := os.WriteFile(filepath.Join(dir, walFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), dir, r); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAFrozenJournalWaits(t *testing.T) {
	t.Parallel()
	dir, r := t.TempDir(), newRegisters()
	j := open(t, dir, r)
	thaw, err := j.Freeze(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := j.Measure(ctx, 4, Entry{"d", "o", ""}); !errors.Is(err, context.Canceled) {
		t.Errorf("while frozen: %v", err)
	}
	thaw()
	j.size = maxJournal
	if err := j.Measure(t.Context(), 4, Entry{"d", "o", ""}); !errors.Is(err, ErrFull) {
		t.Errorf("full: %v", err)
	}
}
