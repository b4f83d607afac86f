// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tsm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cocoon/internal/bounded"
)

// kernel plays configfs: it fills the folders that are made.
type kernel struct {
	files map[string]string
	make  error
	left  *int // folders that are not removed
}

func (k kernel) Make(base string) (string, error) {
	if k.make != nil {
		return "", k.make
	}
	dir, err := os.MkdirTemp(base, "req-")
	if err != nil {
		return "", err
	}
	*k.left++
	for name, text := range k.files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func (k kernel) Remove(dir string) error {
	*k.left--
	return os.RemoveAll(dir)
}

func quote() map[string]string {
	return map[string]string{"provider": "tdx_guest\n", "inblob": "", "outblob": "quote", "auxblob": "more", "generation": "1\n"}
}

func without(m map[string]string, name string) map[string]string {
	delete(m, name)
	return m
}

func with(m map[string]string, name, text string) map[string]string {
	m[name] = text
	return m
}

func TestAReportIsAskedForInAFolderOfItsOwn(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		files map[string]string
		aux   string
	}{
		"with more":    {quote(), "more"},
		"without more": {without(quote(), "auxblob"), ""},
	} {
		left := 0
		r, err := Reporter{Dir: t.TempDir(), FS: kernel{files: tc.files, left: &left}}.Get(t.Context(), "tdx_guest", []byte("data"))
		if err != nil || string(r.Out) != "quote" || string(r.Aux) != tc.aux || left != 0 {
			t.Errorf("%s: %+v, %d folders left (%v)", name, r, left, err)
		}
	}
}

func TestAReportThatIsNotOursIsRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		k    kernel
		want error
		text string
	}{
		"no configfs":      {kernel{make: os.ErrNotExist}, ErrUnsupported, ""},
		"no provider":      {kernel{make: unix.ENXIO}, ErrUnsupported, ""},
		"not allowed":      {kernel{make: unix.EACCES}, unix.EACCES, "make a TSM request"},
		"another TEE":      {kernel{files: with(quote(), "provider", "sev_guest\n")}, ErrUnsupported, `"sev_guest"`},
		"asked twice":      {kernel{files: with(quote(), "generation", "2\n")}, ErrStale, "generation 2"},
		"odd generation":   {kernel{files: with(quote(), "generation", "x")}, nil, "generation"},
		"no generation":    {kernel{files: without(quote(), "generation")}, os.ErrNotExist, ""},
		"nothing":          {kernel{files: with(quote(), "outblob", "")}, nil, "empty"},
		"no report":        {kernel{files: without(quote(), "outblob")}, os.ErrNotExist, ""},
		"no request":       {kernel{files: without(quote(), "inblob")}, os.ErrNotExist, ""},
		"no name":          {kernel{files: without(quote(), "provider")}, os.ErrNotExist, ""},
		"an endless quote": {kernel{files: with(quote(), "outblob", strings.Repeat("x", maxReport+1))}, bounded.ErrTooLarge, ""},
	} {
		left := 0
		tc.k.left = &left
		_, err := Reporter{Dir: t.TempDir(), FS: tc.k}.Get(t.Context(), "tdx_guest", []byte("data"))
		if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v", name, err)
		}
		if left != 0 {
			t.Errorf("%s: %d folders are left", name, left)
		}
	}
}

func TestABusyKernelIsWaitedFor(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	tries := 0
	err := patiently(ctx, func() error {
		if tries++; tries == 2 {
			cancel()
		}
		return unix.EBUSY
	})
	if !errors.Is(err, context.Canceled) || tries != 2 {
		t.Errorf("%d tries: %v", tries, err)
	}
	if err := patiently(t.Context(), func() error { return unix.EINVAL }); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
}

func TestWithoutConfigfsNothingIsSupported(t *testing.T) {
	t.Parallel()
	if _, err := (Reporter{Dir: t.TempDir() + "/absent"}).Get(t.Context(), "tdx_guest", []byte("x")); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
}
