// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// maxSignal is the largest signal number on Linux.
const maxSignal = 64

// Signal sends a signal to the process with this exec id. Signal 0 only asks
// whether the process is known. An empty exec id together with SIGKILL kills
// every process in the container's cgroup, whether init lives or not. SIGTERM
// to a first process that neither handles, ignores nor blocks it becomes
// SIGKILL, because the kernel does not deliver it to the first process of a
// pid namespace. A process that has ended already is no error as long as its
// record exists.
func (c *Container) Signal(ctx context.Context, execID string, sig unix.Signal) error {
	if sig < 0 || sig > maxSignal {
		return fmt.Errorf("signal container %s: signal %d out of range", c.id, int(sig))
	}
	if execID == "" && sig == unix.SIGKILL {
		return c.killAll()
	}
	p, err := c.Process(execID)
	if err != nil {
		return err
	}
	if p.exited() {
		return nil
	}
	released := c.wasReleased(p)
	if sig != 0 && sig != unix.SIGKILL && released {
		if err := awaitProgram(ctx, p); err != nil {
			return fmt.Errorf("signal container %s: %w", c.id, err)
		}
	}
	// The handlers of a first process before Start are those of libcontainer.
	if p == c.init && sig == unix.SIGTERM && !(released && handlesSignal(p.pid, sig)) {
		sig = unix.SIGKILL
	}
	if err := p.signal(sig); err != nil {
		return err
	}
	if sig == unix.SIGKILL && !c.host.cgroupV2 {
		return c.thaw() // cgroup v1 delivers it only then
	}
	return nil
}

// wasReleased tells whether a process is past the point at which init waits.
func (c *Container) wasReleased(p *Process) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return p != c.init || c.started
}

// programWait bounds how long a signal waits for execve(2). The steps before
// it do not depend on the container.
const programWait = time.Second

// awaitProgram waits until a fresh process runs its program. For a moment it
// is still libcontainer's code, in which the Go run time swallows signals that
// the program would have died of.
func awaitProgram(ctx context.Context, p *Process) error {
	limit := time.NewTimer(programWait)
	defer limit.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for runsLibcontainer(p.pid) {
		select {
		case <-p.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			return nil
		case <-tick.C:
		}
	}
	return nil
}

// runsLibcontainer looks for the environment that libcontainer gives its own
// first stage. A program that is given the same variable only makes its first
// signal late.
func runsLibcontainer(pid int) bool {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return false
	}
	defer f.Close()
	buf := make([]byte, 16<<10)
	n, err := io.ReadFull(f, buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false
	}
	return bytes.Contains(buf[:n], []byte("_LIBCONTAINER_INITTYPE="))
}

// handlesSignal tells whether the process handles, ignores or blocks a signal.
// When that cannot be read the process is taken to do so.
func handlesSignal(pid int, sig unix.Signal) bool {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return true
	}
	return statusHandles(status, sig)
}

// statusHandles reads the signal masks of a /proc/<pid>/status file.
func statusHandles(status []byte, sig unix.Signal) bool {
	var mask uint64
	for line := range bytes.Lines(status) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch string(name) {
		case "SigBlk", "SigIgn", "SigCgt":
			m, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 16, 64)
			if err != nil {
				return true
			}
			mask |= m
		}
	}
	return mask&(1<<(uint(sig)-1)) != 0
}

// killAll kills every process in the cgroup, including those that are being
// forked at the moment. An absent cgroup has none.
func (c *Container) killAll() error {
	if cgroupGone(c.cg) {
		return nil
	}
	if c.host.cgroupV2 {
		// Atomic, and works on a frozen group; since Linux 5.14.
		if err := cgroups.WriteFile(c.cg.Path(""), "cgroup.kill", "1"); err == nil {
			return nil
		}
	}
	if err := c.cg.Freeze(cgroups.Frozen); err != nil {
		// Killing what is seen is still better than killing nothing; Delete
		// repeats until the group is empty.
		c.log.Debug("cannot freeze before kill", "container", c.id, "error", err)
	}
	pids, err := c.cg.GetAllPids()
	var errs []error
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, fmt.Errorf("list processes of container %s: %w", c.id, err))
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("kill pid %d of container %s: %w", pid, c.id, err))
		}
	}
	return errors.Join(append(errs, c.thaw())...)
}

// thaw resumes the cgroup if it is there.
func (c *Container) thaw() error {
	if err := c.cg.Freeze(cgroups.Thawed); err != nil && !cgroupGone(c.cg) {
		return fmt.Errorf("thaw container %s: %w", c.id, err)
	}
	return nil
}
