// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package fleet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

const (
	writers = 8
	crashes = 3
	// writesBeforeCrash are acknowledged before the process is killed.
	writesBeforeCrash = 60
	secretSize        = 64 << 10
)

// content is the secret that a writer stores as its n-th: any part of it tells
// which one it is.
func content(n int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%08d", n), secretSize/8) }

// writer stores one new secret after the other, and each also over the last.
type writer struct {
	id int
	// next is the secret to be stored; all below it were acknowledged, as new
	// ones and over the last.
	next int
}

func (w *writer) path(n int) string { return fmt.Sprintf("new/writer%d/%d", w.id, n) }

func (w *writer) same() string { return fmt.Sprintf("same/key/%d", w.id) }

// write stores until the broker is gone, and calls stored after each secret.
func (w *writer) write(ctx context.Context, b *broker, stored func()) {
	for ; ; w.next++ {
		if b.admin.SetResource(ctx, w.path(w.next), content(w.next)) != nil {
			return
		}
		if b.admin.SetResource(ctx, w.same(), content(w.next)) != nil {
			return
		}
		stored()
	}
}

// check finds what was acknowledged, whole.
func (w *writer) check(t *testing.T, b *broker) {
	t.Helper()
	for n := range w.next {
		got, err := b.admin.Resource(t.Context(), w.path(n))
		if err != nil || !bytes.Equal(got, content(n)) {
			t.Errorf("%s was acknowledged and is %d bytes now, error %v", w.path(n), len(got), err)
		}
	}
	if w.next == 0 {
		return
	}
	got, err := b.admin.Resource(t.Context(), w.same())
	if err != nil || !bytes.Equal(got, content(w.next-1)) && !bytes.Equal(got, content(w.next)) {
		t.Errorf("%s begins with %.8q, want that of %d or of the one in flight; error %v", w.same(), got, w.next-1, err)
	}
}

func TestABrokerThatIsKilledLosesNothingItAcknowledged(t *testing.T) {
	t.Parallel()
	dir := newFolder(t)
	all := make([]*writer, writers)
	for i := range all {
		all[i] = &writer{id: i}
	}
	for range crashes {
		b := start(t, dir)
		var group sync.WaitGroup
		var count atomic.Int64
		enough := make(chan struct{})
		for _, w := range all {
			group.Go(func() {
				w.write(t.Context(), b, func() {
					if count.Add(1) == writesBeforeCrash {
						close(enough)
					}
				})
			})
		}
		<-enough
		if err := b.end(syscall.SIGKILL); err == nil {
			t.Fatal("the broker survived")
		}
		group.Wait()
		again := start(t, dir)
		for _, w := range all {
			w.check(t, again)
		}
		again.wantWhole(t)
		if err := again.end(syscall.SIGTERM); err != nil {
			t.Errorf("the broker ended with %v", err)
		}
		wantTidy(t, dir)
	}
}

// wantWhole checks every secret, also those that nobody was told about.
func (b *broker) wantWhole(t *testing.T) {
	t.Helper()
	for _, name := range must[[]string](t)(b.admin.Resources(t.Context())) {
		got, err := b.admin.Resource(t.Context(), name)
		if err != nil || len(got) != secretSize {
			t.Errorf("%s has %d bytes, error %v", name, len(got), err)
			continue
		}
		n, err := strconv.Atoi(string(got[:8]))
		if err != nil || !bytes.Equal(got, content(n)) {
			t.Errorf("%s is of several writes", name)
		}
	}
}

// wantTidy finds no halves of files and no halves of audit records.
func wantTidy(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(filepath.Base(path), ".tmp") {
			t.Errorf("%s was left", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for line := range bytes.Lines(must[[]byte](t)(os.ReadFile(filepath.Join(dir, "audit.jsonl")))) {
		if !json.Valid(line) {
			t.Errorf("audit record %.100q", line)
		}
	}
}
