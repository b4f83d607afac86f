// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestStdinReachesTheProgramAndItsCloseEndsIt(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "cat")
	p := process(t, c, "")
	big := strings.Repeat("0123456789abcdef", 20000) // several pipes full
	var got string
	var wg sync.WaitGroup
	wg.Go(func() { got = readAll(t, p.ReadStdout) })
	if n, err := p.Write(limited(t), []byte(big)); err != nil || n != len(big) {
		t.Errorf("wrote %d of %d: %v", n, len(big), err)
	}
	if n, err := p.Write(limited(t), nil); err != nil || n != 0 { // closes
		t.Errorf("empty write: %d, %v", n, err)
	}
	p.CloseStdin()
	wg.Wait()
	if got != big {
		t.Errorf("%d bytes came back of %d", len(got), len(big))
	}
	if code := waitCode(t, p); code != 0 {
		t.Errorf("code %d", code)
	}
	if _, err := p.Write(t.Context(), []byte("x")); !errors.Is(err, ErrNoStdin) || !strings.Contains(err.Error(), "Cannot get writer") {
		t.Errorf("write after close: %v", err)
	}
}

func TestBlockedStreamCallsEndWithTheirContextOnly(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sh", "-c", "echo first; read go; echo second; sleep 1000")
	p := process(t, c, "")
	readUntil(t, p, "first")

	ctx, cancel := context.WithCancel(t.Context())
	blocked := make(chan error)
	for range 3 {
		go func() {
			_, err := p.ReadStdout(ctx, 10)
			blocked <- err
		}()
	}
	// Everything else works while they hang.
	if err := c.Exec(t.Context(), "other", testProcess("true")); err != nil {
		t.Fatal(err)
	}
	if code := waitCode(t, process(t, c, "other")); code != 0 {
		t.Errorf("code %d", code)
	}
	if _, err := c.Stats(t.Context()); err != nil {
		t.Error(err)
	}
	select {
	case err := <-blocked:
		t.Fatalf("a read ended early: %v", err)
	default:
	}
	cancel()
	for range 3 {
		if err := <-blocked; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled read: %v", err)
		}
	}
	// Nothing is lost by the cancelled ones.
	if _, err := p.Write(t.Context(), []byte("\n")); err != nil {
		t.Fatal(err)
	}
	if out := readUntil(t, p, "\n"); out != "second\n" {
		t.Errorf("read %q", out)
	}

	// How much fits is the kernel's affair, and whether anything was tried
	// before the deadline is the scheduler's.
	n := 0
	for wait := 20 * time.Millisecond; n == 0; wait *= 2 {
		full, cancel := context.WithTimeout(t.Context(), wait)
		var err error
		n, err = p.Write(full, make([]byte, 1<<20))
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || n == 1<<20 {
			t.Fatalf("write to a full pipe: %d, %v", n, err)
		}
	}
}

func TestOutputIsReadableAfterTheEnd(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sh", "-c", "echo out; echo err >&2")
	p := process(t, c, "")
	waitCode(t, p)
	if _, err := p.ReadStdout(t.Context(), 0); err == nil {
		t.Error("read of no bytes succeeded")
	}
	if b, err := p.ReadStdout(t.Context(), 2); err != nil || string(b) != "ou" {
		t.Errorf("%q, %v", b, err)
	}
	if out := readAll(t, p.ReadStdout); out != "t\n" {
		t.Errorf("stdout %q", out)
	}
	if out := readAll(t, p.ReadStderr); out != "err\n" {
		t.Errorf("stderr %q", out)
	}
	if b, err := p.ReadStdout(t.Context(), 9); err != nil || len(b) != 0 {
		t.Errorf("after the end: %q, %v", b, err)
	}
}

func TestABackgroundChildDoesNotKeepTheStreamOpen(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"silent":  "sleep 1000 & echo main",
		"endless": "(while :; do echo noise; done) & echo main",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := running(t, nil, "sleep", "1000")
			if err := c.Exec(t.Context(), "parent", testProcess("sh", "-c", script)); err != nil {
				t.Fatal(err)
			}
			p := process(t, c, "parent")
			waitCode(t, p)
			ended := time.Now()
			if out := readAll(t, p.ReadStdout); !strings.Contains(out, "main\n") {
				t.Errorf("lost the output of the main process in %d bytes", len(out))
			}
			if took := time.Since(ended); took > 10*drainTime {
				t.Errorf("the end came after %v", took)
			}
		})
	}
}

func TestALateReaderGetsWhatWasWritten(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sleep", "1000")
	if err := c.Exec(t.Context(), "parent", testProcess("sh", "-c", "echo early; sleep 1000 &")); err != nil {
		t.Fatal(err)
	}
	p := process(t, c, "parent")
	waitCode(t, p)
	p.stdout.mu.Lock()
	p.stdout.deadline = past // as if the drain time were over
	p.stdout.mu.Unlock()
	p.stdout.restore()
	if out := readAll(t, p.ReadStdout); out != "early\n" {
		t.Errorf("read %q", out)
	}
}

func TestForgetDuringAReadEndsTheStream(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sleep", "1000")
	if err := c.Exec(t.Context(), "parent", testProcess("sh", "-c", "sleep 1000 &")); err != nil {
		t.Fatal(err)
	}
	p := process(t, c, "parent")
	waitCode(t, p)
	var wg sync.WaitGroup
	wg.Go(func() {
		if out := readAll(t, p.ReadStdout); out != "" {
			t.Errorf("read %q", out)
		}
	})
	c.Forget("parent")
	wg.Wait()
	if out := readAll(t, p.ReadStdout); out != "" {
		t.Errorf("read %q after Forget", out)
	}
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sleep", "1000")
	spec := testProcess("sh", "-c", "stty size; read x; stty size; cat")
	spec.Terminal = true
	spec.ConsoleSize = &specs.Box{Height: 20, Width: 30}
	if err := c.Exec(t.Context(), "term", spec); err != nil {
		t.Fatal(err)
	}
	p := process(t, c, "term")
	readUntil(t, p, "20 30")
	if err := p.Resize(50, 132); err != nil {
		t.Fatal(err)
	}
	p.CloseStdin() // must not hang up the terminal
	if _, err := p.Write(t.Context(), []byte("\n")); err != nil {
		t.Fatal(err)
	}
	readUntil(t, p, "50 132")
	if _, err := p.Write(t.Context(), []byte("echo me\n\x04")); err != nil { // ^D ends cat
		t.Fatal(err)
	}
	if code := waitCode(t, p); code != 0 {
		t.Errorf("code %d", code)
	}
	if out := readAll(t, p.ReadStderr); !strings.Contains(out, "echo me") {
		t.Errorf("terminal output %q", out)
	}
}

func TestTheFirstProcessMayHaveATerminal(t *testing.T) {
	t.Parallel()
	r := newTestRuntime(t)
	spec := testSpec(busyboxRoot(t), testID(t), "sh", "-c", "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && stat -c %t,%T /dev/console && stty size")
	spec.Process.Terminal = true
	c := created(t, r, spec)
	p := process(t, c, "")
	if err := p.Resize(24, 80); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := readAll(t, p.ReadStdout); !strings.Contains(out, "24 80") {
		t.Errorf("output %q", out)
	}
	if code := waitCode(t, p); code != 0 {
		t.Errorf("code %d", code)
	}
}

func TestResizeNeedsATerminal(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sleep", "1000")
	if err := process(t, c, "").Resize(1, 1); !errors.Is(err, ErrNoTTY) || err.Error() != "no tty" {
		t.Errorf("resize: %v", err)
	}
}

func TestPipesHaveTheWantedSizeAndAnImpossibleOneIsRefused(t *testing.T) {
	t.Parallel()
	s := &stdio{}
	defer s.close()
	ends, err := s.pipe(1<<16, fromProcess)
	if err != nil {
		t.Fatal(err)
	}
	defer ends.parent.Close()
	if size, err := unix.FcntlInt(ends.parent.Fd(), unix.F_GETPIPE_SZ, 0); err != nil || size != 1<<16 {
		t.Errorf("size %d, %v", size, err)
	}
	if _, err := s.pipe(1<<31-1, toProcess); err == nil {
		t.Error("a pipe of 2 GiB was made")
	}
}
