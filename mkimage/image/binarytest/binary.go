// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package binarytest makes a small Go program that stands for the guest binary
// in tests: a test program of 60 MB would be packed and hashed in its place.
package binarytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Small returns the name of a file with a program that does nothing.
func Small(t testing.TB) string {
	t.Helper()
	b, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return write(t, b)
}

// ForZ is Small with a header that says it is for IBM Z.
func ForZ(t testing.TB) string {
	t.Helper()
	b, err := program()
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.Clone(b)
	b[18], b[19] = 22, 0 // EM_S390
	return write(t, b)
}

func write(t testing.TB, program []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "guest")
	if err := os.WriteFile(file, program, 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

// program builds it, once for all tests of a process.
var program = sync.OnceValues(func() (b []byte, err error) {
	dir, err := os.MkdirTemp("", "binarytest-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	src, bin := filepath.Join(dir, "main.go"), filepath.Join(dir, "guest")
	if err := os.WriteFile(src, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(context.Background(), "go", "build", "-ldflags", "-s -w", "-o", bin, src).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build a program: %w: %s", err, out)
	}
	return os.ReadFile(bin)
})
