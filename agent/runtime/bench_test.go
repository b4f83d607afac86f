// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// BenchmarkCreateStartDelete is the whole life of a container that does
// nothing.
func BenchmarkCreateStartDelete(b *testing.B) {
	r := newTestRuntime(b)
	root := busyboxRoot(b)
	for b.Loop() {
		c, err := r.Create(b.Context(), CreateRequest{ID: "bench", Bundle: "/", Spec: testSpec(root, "bench", "true")})
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		if code := waitCode(b, process(b, c, "")); code != 0 {
			b.Fatal(code)
		}
		if err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExec is a further process that does nothing.
func BenchmarkExec(b *testing.B) {
	r := newTestRuntime(b)
	c := created(b, r, testSpec(busyboxRoot(b), testID(b), "sleep", "1000"))
	if err := c.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := c.Exec(b.Context(), "bench", testProcess("true")); err != nil {
			b.Fatal(err)
		}
		if code := waitCode(b, process(b, c, "bench")); code != 0 {
			b.Fatal(code)
		}
		c.Forget("bench")
	}
}

// BenchmarkRunc is the same life by the runc command, for comparison.
func BenchmarkRunc(b *testing.B) {
	needRoot(b)
	runc, err := exec.LookPath("runc")
	if err != nil {
		b.Skip("no runc to compare with")
	}
	bundle := b.TempDir()
	spec, err := json.Marshal(testSpec(busyboxRoot(b), "bench-runc", "true"))
	if err != nil {
		b.Fatal(err)
	}
	write(b, filepath.Join(bundle, "config.json"), string(spec), 0o600)
	for b.Loop() {
		cmd := exec.CommandContext(b.Context(), runc, "--root", filepath.Join(bundle, "state"), "run", "--bundle", bundle, fmt.Sprintf("bench-%d", os.Getpid()))
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
}
