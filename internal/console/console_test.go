// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package console

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func serve(t *testing.T) (dial func() net.Conn, stop func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "console")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, slog.New(slog.DiscardHandler)) }()
	return func() net.Conn {
			t.Helper()
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			return c
		}, func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
}

// until reads until text has come.
func until(t *testing.T, r io.Reader, text string) {
	t.Helper()
	var all strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(all.String(), text) {
		n, err := r.Read(buf)
		all.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v before %q: %q", err, text, all.String())
		}
	}
}

func TestADebuggerGetsAShellOnATerminal(t *testing.T) {
	dial, stop := serve(t)
	c := dial()
	defer c.Close()
	if _, err := io.WriteString(c, "test -t 0 && echo on-a-$((40+2))\n"); err != nil {
		t.Fatal(err)
	}
	until(t, c, "on-a-42")
	if _, err := io.WriteString(c, "exit\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("the connection does not end with the shell: %v", err)
	}
	stop()
}

func TestAShellEndsWithItsDebuggerAndWithTheGuest(t *testing.T) {
	dial, stop := serve(t)
	first := dial()
	until(t, first, "")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := dial()
	defer second.Close()
	if _, err := io.WriteString(second, "echo up-$((1+1)); exec sleep 1000\n"); err != nil {
		t.Fatal(err)
	}
	until(t, second, "up-2")
	stop() // waits for the shells; the test binary would find one that is left
}

func TestThereIsABoundToShells(t *testing.T) {
	dial, stop := serve(t)
	defer stop()
	for range maxShells {
		c := dial()
		defer c.Close()
		if _, err := io.WriteString(c, "echo up-$((1+1))\n"); err != nil {
			t.Fatal(err)
		}
		until(t, c, "up-2")
	}
	c := dial()
	defer c.Close()
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("one more: %d (%v)", n, err)
	}
}
