// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// leftoverWait bounds the wait for the end of a killed leftover.
const leftoverWait = 5 * time.Second

// start has libcontainer start a process, and leaves none behind when that
// fails.
//
// On the way to a process libcontainer makes further ones that are children of
// this program, not of each other, and when it gives up early it waits for the
// first only. The others stay zombies: the runc command ends soon and leaves
// them to its parent, an agent does not. One of them in the pid namespace of a
// container would keep that container's end back for ever.
//
// Children belong to the thread that made them, also those that are made by a
// child as its siblings. So what is new among the thread's own is of this start
// and of nobody else.
func (c *Container) start(lp *libcontainer.Process) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The main thread inherits the children of threads that end, in the
		// middle of a start too. As it is taken, the next one is another.
		done := make(chan error)
		go func() { done <- c.start(lp) }()
		return <-done
	}
	before, err := children()
	if errors.Is(err, fs.ErrNotExist) {
		return c.lc.Start(lp) // a kernel without CONFIG_PROC_CHILDREN
	}
	if err != nil {
		return err
	}
	err = c.lc.Start(lp)
	if err == nil {
		return nil
	}
	if left := reapLeftovers(before); left != nil {
		c.log.Warn("processes are left of one that could not be made", "container", c.id, "error", left)
	}
	return err
}

// reapLeftovers kills and reaps the children of this thread but those of
// before. It looks again, since one may have made another meanwhile.
func reapLeftovers(before []int) error {
	deadline := time.Now().Add(leftoverWait)
	for {
		now, err := children()
		if err != nil {
			return err
		}
		left := slices.DeleteFunc(now, func(pid int) bool { return slices.Contains(before, pid) })
		if len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill pid %d: %w", pid, err)
			}
			if err := reapBefore(deadline, pid); err != nil {
				return err
			}
		}
	}
}

// reapBefore waits for the end of a killed child.
func reapBefore(deadline time.Time, pid int) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil)
		if got == pid || errors.Is(err, unix.ECHILD) {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for pid %d: %w", pid, err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("pid %d has not ended %v after it was killed", pid, leftoverWait)
		}
		time.Sleep(wait)
	}
}

// children lists the children of the calling thread, zombies among them.
func children() ([]int, error) {
	b, err := os.ReadFile("/proc/thread-self/children")
	if err != nil {
		return nil, fmt.Errorf("list child processes: %w", err)
	}
	var pids []int
	for _, f := range strings.Fields(string(b)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			return nil, fmt.Errorf("list child processes: %w", err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}
