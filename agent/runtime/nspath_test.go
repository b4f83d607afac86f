// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestOnlyNamespacesAreJoined(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		path string
		err  error
	}{
		"a new one":            {"", nil},
		"a namespace":          {"/proc/self/ns/net", nil},
		"a FIFO does not hang": {fifo, ErrRefused},
		"a directory":          {dir, ErrRefused},
		"absent":               {filepath.Join(dir, "absent"), fs.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := checkNamespacePaths([]specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace, Path: tc.path}})
			if !errors.Is(err, tc.err) || tc.err == nil && err != nil {
				t.Errorf("got %v, want %v", err, tc.err)
			}
		})
	}
}
