// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A shim probes a container at any time, also in the moment of its end. The
// kernel holds the end of a pid namespace back until each of its processes was
// reaped, so one that nobody knows of would keep the container for ever.
func TestAContainerEndsWhileProcessesAreBeingMade(t *testing.T) {
	t.Parallel()
	const rounds, probes = 12, 4
	for round := range rounds {
		c := running(t, nil, "sleep", "1000")
		init := process(t, c, "")
		var making sync.WaitGroup
		for i := range probes {
			making.Go(func() {
				// Whether one is still made is a matter of luck.
				if err := c.Exec(limited(t), fmt.Sprint("probe-", i), testProcess("true")); err != nil {
					t.Logf("round %d: %v", round, err)
				}
			})
		}
		<-time.After(time.Duration(round) * 2 * time.Millisecond) // the moment is what is tried
		if err := unix.Kill(c.InitPID(), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		making.Wait()
		select {
		case <-init.Done():
		case <-time.After(5 * time.Second):
			t.Fatalf("round %d: the first process does not end; unreaped: %q", round, unreaped(t))
		}
		if err := c.Delete(limited(t)); err != nil {
			t.Fatal(err)
		}
	}
	// Other tests may be making a process just now; theirs do not stay.
	for began := time.Now(); len(unreaped(t)) > 0; {
		if time.Since(began) > 5*time.Second {
			t.Fatalf("unreaped: %q", unreaped(t))
		}
	}
}

// unreaped lists what libcontainer made on the way to a process and is left as
// a zombie of this one.
func unreaped(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range all {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		if s := string(b); strings.Contains(s, fmt.Sprintf(") Z %d ", os.Getpid())) && strings.Contains(s, "(runc:[") {
			found = append(found, strings.TrimSpace(s[:strings.Index(s, ") ")+1]))
		}
	}
	return found
}
