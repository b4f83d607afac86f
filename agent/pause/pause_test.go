// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package pause

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// exitCode tells an orderly end from every other one.
const exitCode = 7

// TestMain is the pause program when the test runs itself under its name. The
// signals are ignored until Run asks for them, so that one that comes early
// does not end the process by itself.
func TestMain(m *testing.M) {
	if Wanted(os.Args) {
		signal.Ignore(unix.SIGTERM, unix.SIGINT)
		if _, err := os.Stdout.WriteString("ignoring\n"); err != nil {
			os.Exit(1)
		}
		Run(context.Background())
		os.Exit(exitCode)
	}
	os.Exit(m.Run())
}

func TestPauseEndsOrderlyOnASignal(t *testing.T) {
	t.Parallel()
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
			cmd.Args = []string{Path}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ignoring\n" {
				t.Fatalf("%q (%v)", line, err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			// Not so often that a second one comes between Run and the exit.
			again := time.NewTicker(200 * time.Millisecond)
			defer again.Stop()
			for {
				select {
				case err := <-ended:
					var exit *exec.ExitError
					if err != nil && !errors.As(err, &exit) {
						t.Fatal(err)
					}
					if code := cmd.ProcessState.ExitCode(); code != exitCode {
						t.Fatalf("pause ended with %v", cmd.ProcessState)
					}
					return
				case <-again.C:
					if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

func TestPauseEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); Run(ctx) }()
	cancel()
	<-done
}

func TestOnlyThePausePathIsWanted(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {}, {"pause"}, {"/usr/bin/pause"}, {"cocoon", "/pause"}} {
		if Wanted(args) {
			t.Errorf("%q is taken for the pause program", args)
		}
	}
	if !Wanted([]string{"/pause"}) {
		t.Error("/pause is not recognised")
	}
}
