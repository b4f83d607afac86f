// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package deb

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/mkimage/deb/debtest"
)

func in(prefix string) func(string) bool {
	return func(name string) bool { return strings.HasPrefix(name, prefix) }
}

func TestWantedFilesComeOutOfAPackage(t *testing.T) {
	t.Parallel()
	file, _ := debtest.Make(t, map[string][]byte{"usr/lib/a": []byte("A"), "usr/share/b": []byte("B")})
	files, err := Files(t.Context(), file, in("usr/lib/"))
	if err != nil || len(files) != 1 || string(files["usr/lib/a"]) != "A" {
		t.Errorf("%q, %v", files, err)
	}
}

func TestBrokenPackagesAreErrorsThatNameThem(t *testing.T) {
	t.Parallel()
	good, _ := debtest.Make(t, map[string][]byte{"a": []byte("A")})
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string][]byte{"empty.deb": {}, "text.deb": []byte("no package"), "cut.deb": data[:len(data)/2]} {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Files(t.Context(), p, in("")); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v, want an error that names it", name, err)
		}
	}
	if _, err := Files(t.Context(), filepath.Join(dir, "absent.deb"), in("")); err == nil || !strings.Contains(err.Error(), "absent.deb") {
		t.Errorf("an absent package: %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Files(cancelled, good, in("")); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}

func TestOnlyRegularWantedFilesOfAnArchiveAreKept(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "./boot/vmlinuz-6.1", Typeflag: tar.TypeReg},
		{Name: "./etc/passwd", Typeflag: tar.TypeReg},
		{Name: "./boot/link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"},
		{Name: "../../boot/up", Typeflag: tar.TypeReg},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := readTar(&b, in("boot/"))
	if _, ok := files["boot/vmlinuz-6.1"]; err != nil || len(files) != 1 || !ok {
		t.Errorf("kept %d files, %v", len(files), err)
	}
}
