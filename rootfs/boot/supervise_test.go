// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestADeadGuestRolePowersOffAndItsLastWordsAreRepeated(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status unix.WaitStatus
		want   string
	}{
		"exit code": {exited(3), "exit code 3"},
		"killed":    {signaled(unix.SIGKILL), "signal killed"},
		"crashed":   {signaled(unix.SIGSEGV), "signal segmentation fault"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			var text strings.Builder
			for i := range 2 * tailLines {
				fmt.Fprintf(&text, "line %d\n", i)
			}
			w.end(t, text.String()+"no newline at the end", tc.status)
			err := Run(t.Context(), w.deps())
			if !errors.Is(err, ErrRole) || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want ErrRole with %q", err, tc.want)
			}
			log := w.logged()
			if !strings.Contains(log, "<11>last words: no newline at the end\n") || !strings.Contains(log, "init: fatal: ") {
				t.Errorf("log lacks the last words or the reason:\n%s", log)
			}
			if n := strings.Count(log, "last words: "); n != tailLines {
				t.Errorf("%d lines are repeated, want %d", n, tailLines)
			}
			if n := countCalls(w, "start cocoon guest"); n != 1 {
				t.Errorf("the role was started %d times", n)
			}
			if w.calls[len(w.calls)-1] != "power off" {
				t.Errorf("last call is %q", w.calls[len(w.calls)-1])
			}
		})
	}
}

func countCalls(w *world, call string) int {
	n := 0
	for _, c := range w.calls {
		if c == call {
			n++
		}
	}
	return n
}

func TestAStopRequestIsPassedOnAndForcedWhenIgnored(t *testing.T) {
	t.Parallel()
	term, kill := fmt.Sprintf("kill %d %d", rolePid, unix.SIGTERM), fmt.Sprintf("kill %d %d", rolePid, unix.SIGKILL)
	t.Run("obeyed", func(t *testing.T) {
		t.Parallel()
		w := newWorld()
		w.signals <- os.Signal(unix.SIGTERM)
		w.onCall[term] = func() { w.end(t, "", exited(0)) }
		if err := Run(t.Context(), w.deps()); err != nil {
			t.Fatal(err)
		}
		if slices.Contains(w.calls, kill) {
			t.Error("an obedient role was killed")
		}
	})
	t.Run("ctrl-alt-del", func(t *testing.T) {
		t.Parallel()
		w := newWorld()
		w.signals <- os.Signal(unix.SIGINT)
		w.onCall[term] = func() { w.end(t, "", exited(0)) }
		if err := Run(t.Context(), w.deps()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		w := newWorld()
		w.onCall["start cocoon guest"] = cancel
		w.onCall[term] = func() { w.end(t, "", exited(0)) }
		if err := Run(ctx, w.deps()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("ignored", func(t *testing.T) {
		t.Parallel()
		w := newWorld()
		w.signals <- os.Signal(unix.SIGTERM)
		w.timer(StopTimeout) <- time.Time{}
		w.onCall[kill] = func() { w.end(t, "", signaled(unix.SIGKILL)) }
		if err := Run(t.Context(), w.deps()); !errors.Is(err, ErrRole) {
			t.Fatalf("got %v, want ErrRole", err)
		}
		if a, b := slices.Index(w.calls, term), slices.Index(w.calls, kill); a < 0 || b < a {
			t.Errorf("SIGTERM is call %d, SIGKILL %d", a, b)
		}
	})
}

func TestAGuestRoleThatCannotBeKilledDoesNotKeepTheMachineOn(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.signals <- os.Signal(unix.SIGTERM)
	w.timer(StopTimeout) <- time.Time{}
	w.timer(killTimeout) <- time.Time{}
	w.timer(drainTimeout) <- time.Time{}
	err := Run(t.Context(), w.deps())
	if !errors.Is(err, errStuck) || w.calls[len(w.calls)-1] != "power off" {
		t.Errorf("got %v after %q", err, w.calls[len(w.calls)-1])
	}
	w.children <- wait4{err: unix.ECHILD} // releases the waiting goroutine
}

func TestAnOrphanThatHoldsTheOutputDoesNotDelayTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.timer(drainTimeout) <- time.Time{}
	w.children <- wait4{pid: rolePid, status: exited(0)}
	if err := Run(t.Context(), w.deps()); err != nil {
		t.Fatal(err)
	}
}

func TestALostReaperIsFatal(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.timer(drainTimeout) <- time.Time{}
	w.children <- wait4{err: unix.EINVAL}
	if err := Run(t.Context(), w.deps()); !errors.Is(err, unix.EINVAL) {
		t.Errorf("got %v, want the error of wait", err)
	}
}

func TestNothingInThePowerOffMayHangIt(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	for call, limit := range map[string]time.Duration{
		"kill -1 9": killAllTimeout, "sync": syncTimeout, "unmount /data/in ner": unmountTimeout,
	} {
		w := newWorld()
		w.end(t, "", exited(0))
		w.onCall[call] = func() {
			w.timer(limit) <- time.Time{}
			<-release
		}
		if err := Run(t.Context(), w.deps()); err != nil {
			t.Fatal(err)
		}
		if w.calls[len(w.calls)-1] != "power off" || !strings.Contains(w.logged(), "took too long") {
			t.Errorf("%s: hung or was not reported:\n%s", call, w.logged())
		}
	}
}

func TestAFailureDuringThePowerOffDoesNotStopIt(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for _, call := range []string{"kill -1 9", "unmount /data", "read /proc/self/mounts"} {
		w := newWorld()
		w.fail[call] = boom
		w.end(t, "", exited(0))
		if err := Run(t.Context(), w.deps()); err != nil {
			t.Fatal(err)
		}
		if w.calls[len(w.calls)-1] != "power off" || !strings.Contains(w.logged(), "boom") {
			t.Errorf("%s: not reported or no power-off", call)
		}
	}
	w := newWorld()
	w.fail["power off"] = boom
	w.end(t, "", exited(0))
	if err := Run(t.Context(), w.deps()); !errors.Is(err, boom) {
		t.Errorf("got %v, want the error of the power-off", err)
	}
}

func TestAVeryLongLineIsPassedOnInPieces(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.end(t, strings.Repeat("x", 3*maxLine)+"\nafter\n", exited(0))
	if err := Run(t.Context(), w.deps()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(w.logged(), "guest: after\n") {
		t.Error("the line after a long one is lost")
	}
}
