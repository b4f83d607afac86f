// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/internal/klog"
)

const (
	// syncTimeout bounds writing back: a disk that hangs, which the host can
	// bring about, must not keep a guest alive that has to end.
	syncTimeout    = 30 * time.Second
	unmountTimeout = 15 * time.Second
	// killAllTimeout leaves room for the kill beyond the reaping.
	killAllTimeout = killTimeout + time.Second
	reapInterval   = 20 * time.Millisecond
)

// fatal writes why the guest ends where the console shows it.
func (s *State) fatal(log *klog.Log, err error) {
	if werr := log.Record(klog.Error, "init: fatal: "+err.Error()); werr != nil {
		fmt.Fprintln(s.Deps.Console, "init: fatal:", err, "and", werr)
	}
}

// powerOff ends everything and switches the machine off. Each part is tried
// whatever became of the one before, and none may take longer than its share.
func (s *State) powerOff() error {
	for _, part := range []struct {
		name string
		run  func() error
		max  time.Duration
	}{
		{"kill", s.killAll, killAllTimeout},
		{"sync", func() error { s.Deps.Kern.Sync(); return nil }, syncTimeout},
		{"unmount", s.unmountDisks, unmountTimeout},
	} {
		if err := s.within(part.max, part.run); err != nil {
			s.Log.Error("power-off", "part", part.name, "error", err)
		}
	}
	s.Log.Info("power-off")
	if err := guard(s.Deps.Kern.PowerOff); err != nil {
		return fmt.Errorf("power off: %w", err)
	}
	return nil
}

var errTimeout = errors.New("took too long")

// within runs f and gives up on it after limit. The goroutine of an f that
// hangs is left to the power-off.
func (s *State) within(limit time.Duration, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- guard(f) }()
	select {
	case err := <-done:
		return err
	case <-s.Deps.After(limit):
		return fmt.Errorf("%w: more than %s", errTimeout, limit)
	}
}

// killAll kills every process and reaps what has become PID 1's child.
func (s *State) killAll() error {
	if err := s.Deps.Procs.Kill(-1, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill all processes: %w", err)
	}
	for range killTimeout / reapInterval {
		pid, _, err := s.Deps.Procs.Wait(true)
		switch {
		case errors.Is(err, unix.ECHILD):
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("reap: %w", err)
		case pid == 0:
			<-s.Deps.After(reapInterval)
		}
	}
	return fmt.Errorf("%w: processes are left", errTimeout)
}

// unmountDisks unmounts every file system that has a device below it, last
// mounted first.
func (s *State) unmountDisks() error {
	b, err := s.Deps.FS.ReadFile("/proc/self/mounts")
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	var errs []error
	for _, target := range diskMounts(string(b)) {
		if err := s.Deps.FS.Unmount(target, 0); err != nil {
			errs = append(errs, fmt.Errorf("unmount %q: %w", target, err))
		}
	}
	return errors.Join(errs...)
}

// diskMounts returns the targets of mounts whose source is a device node, in
// the reverse order of the table. The root is left out: it is in use, and there
// is nothing to write back to it.
func diskMounts(table string) []string {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var targets []string
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) >= 3 && strings.HasPrefix(f[0], "/dev/") && f[1] != "/" {
			targets = append(targets, unescape.Replace(f[1]))
		}
	}
	slices.Reverse(targets)
	return targets
}
