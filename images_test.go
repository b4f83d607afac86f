// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cocoon/imagers"
)

func testStore(t *testing.T) (*imageStore, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "image")
	s, err := openImages(dir, func() (*imagers.Puller, error) { return imagers.New(imagers.Config{WorkDir: dir}, imagers.Deps{}) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s, dir
}

func TestTheImageStoreMovesBeforeTheFirstPull(t *testing.T) {
	t.Parallel()
	s, dir := testStore(t)
	fail := errors.New("no such disk")
	err := s.Move(t.Context(), func(context.Context, string) (func(context.Context) error, error) { return nil, fail })
	if !errors.Is(err, fail) {
		t.Fatal(err)
	}
	moved, undone := "", 0
	mount := func(_ context.Context, at string) (func(context.Context) error, error) {
		moved = at
		// As an empty disk on the directory.
		return func(context.Context) error { undone++; return nil }, errors.Join(os.RemoveAll(at), os.Mkdir(at, 0o700))
	}
	if err := s.Move(t.Context(), mount); err != nil || moved != dir {
		t.Fatalf("%q (%v)", moved, err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) == 0 {
		t.Errorf("the store is not on the new disk: %v (%v)", list, err)
	}
	if err := s.Move(t.Context(), mount); !errors.Is(err, errStoreUsed) {
		t.Errorf("twice: %v", err)
	}
	if err := s.Close(t.Context()); err != nil || undone != 1 {
		t.Errorf("%d times undone (%v)", undone, err)
	}
}

func TestTheImageStoreStaysOnceAnImageWasPulled(t *testing.T) {
	t.Parallel()
	s, _ := testStore(t)
	if _, err := s.Pull(t.Context(), imagers.Request{Image: "127.0.0.1:1/none:1", Bundle: t.TempDir()}); err == nil {
		t.Fatal("pulled from nowhere")
	}
	err := s.Move(t.Context(), func(context.Context, string) (func(context.Context) error, error) {
		t.Error("mounted")
		return nil, nil
	})
	if !errors.Is(err, errStoreUsed) {
		t.Error(err)
	}
}
