// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"cocoon/internal/safepath"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newStore(t testing.TB) *Store {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: overlay mounts")
	}
	s, err := New(filepath.Join(t.TempDir(), "work"), slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

// add puts a layer with one file into the store.
func add(t testing.TB, s *Store, file, content string, opaque bool) *Layer {
	t.Helper()
	l, err := s.Layer(t.Context(), digest.FromString(file+content), func(_ context.Context, root *safepath.Root) (Content, error) {
		f, err := root.Open(file, unix.O_CREAT|unix.O_WRONLY, 0o644)
		if err != nil {
			return Content{}, err
		}
		_, err = f.WriteString(content)
		return Content{Opaque: opaque}, errors.Join(err, f.Close())
	})
	must(t, err)
	return l
}

func target(t testing.TB) string {
	dir := filepath.Join(t.TempDir(), "rootfs")
	must(t, os.Mkdir(dir, 0o755))
	return dir
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestLayersStackWithTheTopmostFirst(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	a, b, f1, f2 := add(t, s, "a", "a", false), add(t, s, "b", "b", true), add(t, s, "f", "1", false), add(t, s, "f", "2", false)
	for name, tc := range map[string]struct {
		layers []*Layer
		files  []string
		f      string
	}{
		"one":                         {[]*Layer{a}, []string{"a"}, ""},
		"upper wins":                  {[]*Layer{f1, f2}, []string{"f"}, "2"},
		"lower one again on top":      {[]*Layer{f1, f2, f1}, []string{"f"}, "1"},
		"opaque root hides all below": {[]*Layer{a, f1, b, f2}, []string{"b", "f"}, "2"},
	} {
		dir := target(t)
		must(t, s.Mount(dir, tc.layers))
		if got := names(t, dir); !slices.Equal(got, tc.files) {
			t.Errorf("%s: files %v, want %v", name, got, tc.files)
		}
		if tc.f != "" {
			if got, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(got) != tc.f {
				t.Errorf("%s: f holds %q, %v", name, got, err)
			}
		}
		if err := s.Mount(dir, []*Layer{a}); !errors.Is(err, ErrInUse) {
			t.Errorf("%s: a second mount: %v", name, err)
		}
		must(t, s.Unmount(dir))
		if err := s.Unmount(dir); !errors.Is(err, ErrNotMounted) {
			t.Errorf("%s: a second unmount: %v", name, err)
		}
		if got := names(t, filepath.Join(s.dir, overlayDir)); len(got) != 0 {
			t.Errorf("%s: left %v", name, got)
		}
	}
}

func TestTheOlderMountCallStacksManyLayersToo(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	name := s.number()
	o := overlay{target: target(t)}
	for i := range 150 {
		l := add(t, s, "f"+strconv.Itoa(i), "x", false)
		o.lower = append(o.lower, filepath.Join(s.dir, layersDir, l.entry.name))
	}
	var err error
	o.upper, o.work, err = s.makeUpper(name, o.lower[0])
	must(t, err)
	must(t, o.mountByDescriptor())
	if got := len(names(t, o.target)); got != 150 {
		t.Errorf("%d files", got)
	}
	must(t, unix.Unmount(o.target, 0))
	must(t, o.mount())
	if got := len(names(t, o.target)); got != 150 {
		t.Errorf("%d files by the newer call", got)
	}
	must(t, unix.Unmount(o.target, 0))
	o.lower = append(append(o.lower, o.lower...), o.lower...)
	if err := o.mountByDescriptor(); err == nil {
		t.Error("options longer than a page were accepted")
	}
}

func TestOneFillServesAllWhoWait(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var group errgroup.Group
	fills := make(chan struct{}, 10)
	for range 10 {
		group.Go(func() error {
			l, err := s.Layer(t.Context(), "d", func(context.Context, *safepath.Root) (Content, error) {
				fills <- struct{}{}
				return Content{DiffID: "x"}, nil
			})
			if err == nil && l.DiffID != "x" {
				err = errors.New("other content")
			}
			return err
		})
	}
	must(t, group.Wait())
	if len(fills) != 1 || s.layers["d"].refs != 10 {
		t.Errorf("%d fills, %d references", len(fills), s.layers["d"].refs)
	}
}

func TestAFailedFillLeavesNothingAndTheNextOneTriesItself(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	boom := errors.New("boom")
	started, release := make(chan struct{}), make(chan struct{})
	var group errgroup.Group
	group.Go(func() error {
		_, err := s.Layer(t.Context(), "d", func(_ context.Context, root *safepath.Root) (Content, error) {
			close(started)
			<-release
			f, err := root.MkdirAll("a/b/c", 0o755)
			return Content{}, errors.Join(boom, err, f.Close())
		})
		if !errors.Is(err, boom) {
			t.Errorf("got %v", err)
		}
		return nil
	})
	<-started
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Layer(ctx, "d", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a waiter that gave up: %v", err)
	}
	group.Go(func() error {
		_, err := s.Layer(t.Context(), "d", func(context.Context, *safepath.Root) (Content, error) { return Content{}, nil })
		return err
	})
	close(release)
	must(t, group.Wait())
	if got := names(t, filepath.Join(s.dir, layersDir)); len(got) != 1 || got[0] == "tmp-1" {
		t.Errorf("layers %v", got)
	}
}

func TestPruneRemovesOnlyWhatNobodyUses(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	used, unused := add(t, s, "a", "a", false), add(t, s, "b", "b", false)
	dir := target(t)
	must(t, s.Mount(dir, []*Layer{used}))
	unused.Put()
	if n := s.Prune(); n != 1 {
		t.Errorf("removed %d", n)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"a"}) {
		t.Errorf("the used layer holds %v", got)
	}
	must(t, s.Unmount(dir))
	if n := s.Prune(); n != 1 || len(names(t, filepath.Join(s.dir, layersDir))) != 0 {
		t.Errorf("removed %d at the end", n)
	}
}

func TestAMountThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	l := add(t, s, "a", "a", false)
	if err := s.Mount(filepath.Join(t.TempDir(), "absent"), []*Layer{l}); !errors.Is(err, unix.ENOENT) {
		t.Errorf("got %v", err)
	}
	if got := names(t, filepath.Join(s.dir, overlayDir)); len(got) != 0 || len(s.mounts) != 0 {
		t.Errorf("left %v, %v", got, s.mounts)
	}
}
