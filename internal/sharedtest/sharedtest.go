// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package sharedtest finds test data that belongs to other projects and is
// therefore not part of this repository.
//
// The files lie in shared/testdata beside the checkout, or in the directory
// that COCOON_TESTDATA names. Where they are absent the tests that need them
// skip and say so; vectors of our own cover the same code.
package sharedtest

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Path returns the path of name below the shared test data, for example
// "recordings/ctr-run.jsonl". It skips the test if the file is not there.
func Path(t testing.TB, name string) string {
	t.Helper()
	p := filepath.Join(root(t), filepath.FromSlash(name))
	if _, err := os.Stat(p); err != nil {
		t.Skipf("shared test data %q is absent: set COCOON_TESTDATA to the folder that holds it", name)
	}
	return p
}

// Read returns the content of name below the shared test data, under the
// rules of Path.
func Read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(Path(t, name))
	if err != nil {
		t.Fatalf("read shared test data: %v", err)
	}
	return b
}

func root(t testing.TB) string {
	t.Helper()
	if d := os.Getenv("COCOON_TESTDATA"); d != "" {
		return d
	}
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("no caller information to find the repository by")
	}
	// file is <repository>/internal/sharedtest/sharedtest.go; with -trimpath
	// it is not absolute, and the working directory has to serve.
	dir := filepath.Dir(file)
	if !filepath.IsAbs(dir) {
		wd, err := os.Getwd()
		if err != nil {
			t.Fatalf("find the working directory: %v", err)
		}
		for dir = wd; dir != "/"; dir = filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
				return filepath.Join(dir, "..", "shared", "testdata")
			}
		}
		t.Skip("the repository's root was not found from the working directory")
	}
	return filepath.Join(dir, "..", "..", "..", "shared", "testdata")
}
