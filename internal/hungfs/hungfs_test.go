// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package hungfs_test

import (
	"os"
	"testing"

	"cocoon/internal/hungfs"
)

func TestAServerThatFallsSilentStopsWhoeverLooks(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("mounts need root")
	}
	dir := t.TempDir()
	done := make(chan error, 1)
	t.Cleanup(func() {
		if err := <-done; err == nil {
			t.Error("an answer after the end of the server")
		}
	})
	fs := hungfs.Mount(t, dir)
	if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
		t.Fatalf("%v (%v)", list, err)
	}
	fs.Silence()
	go func() {
		_, err := os.Stat(dir)
		done <- err
	}()
	<-fs.Asked()
	select {
	case err := <-done:
		t.Fatalf("an answer: %v", err)
	default:
	}
}
