// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package guest_test runs the guest binary in the guest role as an ordinary
// process of this host and talks to it as a kata shim does. The key broker and
// the registry are real ones on loopback with TLS.
//
// Each guest lives in a mount namespace of its own with an empty tmpfs on
// /run. It therefore uses the paths of a guest, which shims know, touches
// nothing of the host, and shows by its mount table and by that tmpfs what it
// leaves behind.
package guest_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// binary is the guest binary under test. TestMain sets it once.
var binary string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == worldRole {
		fmt.Fprintln(os.Stderr, enterWorld(os.Args[2:]))
		os.Exit(worldFailed)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Getuid() != 0 {
		return m.Run() // every test skips and says why
	}
	dir, err := os.MkdirTemp("", "cocoon-guest")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := findBinary(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	removeCgroupParents()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

// findBinary takes the binary from the folder that COCOON_BIN names, or builds
// it below dir.
func findBinary(dir string) error {
	if bin := os.Getenv("COCOON_BIN"); bin != "" {
		binary = filepath.Join(bin, "cocoon")
		_, err := os.Stat(binary)
		return err
	}
	binary = filepath.Join(dir, "cocoon")
	// Static, as in an image: it is the pause program as well, in an empty root.
	cmd := exec.Command("go", "build", "-tags", "netgo,osusergo,seccomp,runc_nocriu",
		"-ldflags", "-linkmode external -extldflags -static", "-o", binary, "cocoon")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the guest binary: %w: %s", err, out)
	}
	return nil
}

// must returns a function that returns its value or ends the test.
func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
