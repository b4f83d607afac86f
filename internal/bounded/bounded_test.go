// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package bounded_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"cocoon/internal/bounded"
)

func TestDataUpToTheLimitPassesAndOneByteMoreFails(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		in    string
		limit int64
		fails bool
	}{
		"empty":              {"", 0, false},
		"one over zero":      {"a", 0, true},
		"under":              {"abc", 4, false},
		"exactly":            {"abcd", 4, false},
		"one over":           {"abcde", 4, true},
		"far over":           {strings.Repeat("x", 100_000), 4096, true},
		"exactly a full buf": {strings.Repeat("x", 4096), 4096, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := bounded.ReadAll(strings.NewReader(tc.in), tc.limit)
			check(t, "ReadAll", got, err, tc.in, tc.fails)
			name := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(name, []byte(tc.in), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err = bounded.ReadFile(name, tc.limit)
			check(t, "ReadFile", got, err, tc.in, tc.fails)
			got, err = io.ReadAll(bounded.Reader(strings.NewReader(tc.in), tc.limit))
			if tc.fails {
				got = nil
			}
			check(t, "Reader", got, err, tc.in, tc.fails)
			got, err = io.ReadAll(bounded.Reader(iotest.OneByteReader(strings.NewReader(tc.in)), tc.limit))
			if tc.fails {
				got = nil
			}
			check(t, "Reader by bytes", got, err, tc.in, tc.fails)
		})
	}
}

func check(t *testing.T, what string, got []byte, err error, want string, fails bool) {
	t.Helper()
	if fails {
		if !errors.Is(err, bounded.ErrTooLarge) || len(got) != 0 {
			t.Errorf("%s: got %d bytes, error %v; want ErrTooLarge", what, len(got), err)
		}
		return
	}
	if err != nil || string(got) != want {
		t.Errorf("%s: got %d bytes, error %v; want %d bytes", what, len(got), err, len(want))
	}
}

func TestAReadErrorIsKept(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	if _, err := bounded.ReadAll(iotest.ErrReader(boom), 10); !errors.Is(err, boom) {
		t.Errorf("got %v, want the reader's own error", err)
	}
	if _, err := io.ReadAll(bounded.Reader(iotest.ErrReader(boom), 10)); !errors.Is(err, boom) {
		t.Errorf("got %v, want the reader's own error", err)
	}
}

func TestAFileThatIsNotThereIsNamed(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "none")
	if b, err := bounded.ReadFile(name, 1); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), name) {
		t.Errorf("%q, %v", b, err)
	}
	if b, err := bounded.ReadFile(t.TempDir(), 1); err == nil {
		t.Errorf("of a directory: %q", b)
	}
}
