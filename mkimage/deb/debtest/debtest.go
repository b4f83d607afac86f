// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package debtest makes small Debian packages for tests.
package debtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const dpkgDeb = "/usr/bin/dpkg-deb"

// Make packs files, by their paths, into a Debian package with the system's
// tool, and returns its path and the directory in which they lie unpacked.
// Where there is no such tool the test is skipped.
func Make(t *testing.T, files map[string][]byte) (deb, root string) {
	t.Helper()
	if _, err := os.Stat(dpkgDeb); err != nil {
		t.Skipf("no dpkg-deb: %v", err)
	}
	dir := t.TempDir()
	root, deb = filepath.Join(dir, "root"), filepath.Join(dir, "test.deb")
	write := func(name string, data []byte) {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("DEBIAN/control", []byte("Package: test\nVersion: 1\nArchitecture: all\nMaintainer: none <none@example.com>\nDescription: test\n"))
	for name, data := range files {
		write(name, data)
	}
	if out, err := exec.CommandContext(t.Context(), dpkgDeb, "-b", root, deb).CombinedOutput(); err != nil {
		t.Fatalf("build a package: %v: %s", err, out)
	}
	return deb, root
}
