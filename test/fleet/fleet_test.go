// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"cocoon/attest/kbs"
	"cocoon/attest/tee/sample"
	"cocoon/trustee/rvps"
)

const (
	guests = 200
	// maxPeak bounds the broker's memory with all guests at once, in KiB.
	maxPeak = 256 << 10
)

// prepare lets sample guests have a secret each.
func (b *broker) prepare(t testing.TB) {
	t.Helper()
	values := must[[]byte](t)(rvps.NewMessage(map[string]any{
		"launch_digest": []string{"abcde"}, "svn": []string{"1"}, "major_version": 1, "minimum_minor_version": 1,
	}, time.Time{}))
	if err := b.admin.RegisterReferenceValues(t.Context(), values); err != nil {
		t.Fatal(err)
	}
	for i := range guests {
		if err := b.admin.SetResource(t.Context(), secretPath(i), secretOf(i)); err != nil {
			t.Fatal(err)
		}
	}
}

func secretPath(i int) string { return fmt.Sprintf("fleet/key/%d", i) }

func secretOf(i int) []byte { return fmt.Appendf(nil, "the secret of guest %d", i) }

// attest is the way of one guest to its secret, with a key and a session of its
// own.
func attest(ctx context.Context, cfg kbs.Config, i int) error {
	c, err := kbs.New(cfg, sample.New())
	if err != nil {
		return err
	}
	secret, err := c.Resource(ctx, kbs.DefaultPlugin, secretPath(i), "")
	if err == nil && string(secret) != string(secretOf(i)) {
		err = fmt.Errorf("got the secret %q", secret)
	}
	return errors.Join(err, c.Close())
}

func TestAFleetAttestsAtOnceInBoundedMemory(t *testing.T) {
	t.Parallel()
	b := start(t, newFolder(t))
	b.prepare(t)
	before := b.peak(t)
	group, ctx := errgroup.WithContext(t.Context())
	ready := make(chan struct{})
	for i := range guests {
		group.Go(func() error {
			<-ready
			if err := attest(ctx, b.guest, i); err != nil {
				return fmt.Errorf("guest %d: %w", i, err)
			}
			return nil
		})
	}
	close(ready)
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	peak := b.peak(t)
	t.Logf("%d guests: the broker had %d KiB at most, %d KiB before", guests, peak, before)
	if peak > maxPeak {
		t.Errorf("the broker had %d KiB, at most %d are right", peak, maxPeak)
	}
	if err := b.end(syscall.SIGTERM); err != nil {
		t.Errorf("the broker ended with %v", err)
	}
	log := string(must[[]byte](t)(os.ReadFile(filepath.Join(b.dir, "audit.jsonl"))))
	if n := strings.Count(log, `"decision":"released"`); n != guests {
		t.Errorf("the audit log has %d releases, want %d", n, guests)
	}
}

func TestAFleetGoesOnWhenItsBrokerIsKilledAndStartedAnew(t *testing.T) {
	t.Parallel()
	b := start(t, newFolder(t))
	b.prepare(t)
	if err := attest(t.Context(), b.guest, 0); err != nil {
		t.Fatal(err)
	}
	if err := b.end(syscall.SIGKILL); err == nil {
		t.Fatal("the broker survived")
	}
	again := start(t, b.dir)
	group, ctx := errgroup.WithContext(t.Context())
	for i := range guests / 10 {
		group.Go(func() error { return attest(ctx, again.guest, i) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}
