// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package fleet_test runs the key broker as its operator does, as a process,
// and puts many guests and a sudden end upon it.
package fleet_test

import (
	"bufio"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cocoon/attest/kbs"
	"cocoon/trustee/admin"
	"cocoon/trustee/pki"
)

var binary string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err == nil {
		err = goleak.Find()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "fleet")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary = filepath.Join(dir, "trustee")
	build := exec.Command("go", "build", "-o", binary, "cocoon/trustee")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build the broker: %w\n%s", err, out)
	}
	return m.Run(), nil
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// newFolder makes the folder of a broker.
func newFolder(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "broker")
	if err := pki.Init(dir, pki.Config{Hosts: []string{"127.0.0.1"}, Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// broker is a running process.
type broker struct {
	dir   string
	cmd   *exec.Cmd
	guest kbs.Config // of its guests
	admin *admin.Client
}

// start runs a broker over dir.
func start(t testing.TB, dir string) *broker {
	t.Helper()
	cmd := exec.Command(binary, "serve", "--dir", dir, "--listen", "127.0.0.1:0", "--allow-sample", "--log-level", "error")
	cmd.Stderr = os.Stderr
	out := must[io.ReadCloser](t)(cmd.StdoutPipe())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := &broker{dir: dir, cmd: cmd}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			if err := b.end(syscall.SIGKILL); !killed(err) {
				t.Errorf("end the broker: %v", err)
			}
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		t.Fatalf("first line %q, error %v", line, err)
	}
	ca := must[[]byte](t)(os.ReadFile(filepath.Join(dir, pki.CACert)))
	key := must[ed25519.PrivateKey](t)(admin.ParsePrivateKey(must[[]byte](t)(os.ReadFile(filepath.Join(dir, pki.AdminKey)))))
	b.guest = kbs.Config{URL: url, RootCertsPEM: ca, PinRoots: true}
	b.admin = must[*admin.Client](t)(admin.NewClient(admin.ClientConfig{URL: url, CA: ca, Key: key}))
	t.Cleanup(b.admin.Close)
	return b
}

// end sends a signal to the process, and waits for it.
func (b *broker) end(s syscall.Signal) error {
	if err := b.cmd.Process.Signal(s); err != nil {
		return err
	}
	return b.cmd.Wait()
}

// peak is the most memory that the process has had, in KiB.
func (b *broker) peak(t testing.TB) int {
	t.Helper()
	status := must[[]byte](t)(os.ReadFile(fmt.Sprintf("/proc/%d/status", b.cmd.Process.Pid)))
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			return must[int](t)(strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(text), " kB")))
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// killed tells whether a program ended by the signal that it was sent, or had
// ended before.
func killed(err error) bool {
	var exit *exec.ExitError
	return err == nil || errors.Is(err, os.ErrProcessDone) || errors.As(err, &exit)
}
