// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// Process is a process that was started in a container: its first one (init)
// or one of an Exec.
type Process struct {
	id  string // "" for init
	pid int
	lp  *libcontainer.Process

	stdin  *input
	stdout *output
	stderr *output  // nil with a terminal
	tty    *os.File // nil without a terminal

	done chan struct{} // closed when the process has ended and was reaped
	code int           // valid after done
	err  error         // valid after done: the exit code could not be had
}

// Pid returns the process id in the agent's pid namespace.
func (p *Process) Pid() int { return p.pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// exited tells whether the process has ended.
func (p *Process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Wait blocks until the process has ended and returns its exit code, or 128
// plus the number of the signal that ended it. Any number of callers get the
// code. It does not wait for output to be read.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.done:
		return p.code, p.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// reap collects the exit code. before runs when the process has ended but
// still occupies its pid.
func (p *Process) reap(before func()) {
	defer close(p.done)
	awaitZombie(p.pid)
	before()
	state, err := p.lp.Wait()
	if p.stdout != nil {
		p.stdout.finish()
	}
	if p.stderr != nil {
		p.stderr.finish()
	}
	if state == nil {
		p.err = fmt.Errorf("wait for pid %d: %w", p.pid, err)
		return
	}
	// err also says that the code is not zero; the state says it better.
	p.code = exitCode(state)
}

// awaitZombie returns when the process has ended, without reaping it.
func awaitZombie(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

func exitCode(state *os.ProcessState) int {
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return state.ExitCode()
}

// signal sends a signal; that the process has ended already is no error.
func (p *Process) signal(sig unix.Signal) error {
	err := p.lp.Signal(sig)
	if err == nil || errors.Is(err, os.ErrProcessDone) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return fmt.Errorf("signal pid %d: %w", p.pid, err)
}

// Write writes all of data to standard input, which takes as long as the
// process takes to read it. Empty data closes standard input. After a close
// the error is ErrNoStdin.
func (p *Process) Write(ctx context.Context, data []byte) (int, error) {
	if len(data) == 0 {
		p.CloseStdin()
		return 0, nil
	}
	return p.stdin.write(ctx, data)
}

// CloseStdin closes standard input. It is ignored for a terminal, where input
// and output are one file, and may be repeated.
func (p *Process) CloseStdin() {
	if p.tty == nil {
		p.stdin.close()
	}
}

// ReadStdout blocks until standard output, or the terminal, has at least one
// byte, and returns at most n bytes. No bytes and no error mean the end. After
// the process has ended, output that others still write to the same pipe is
// waited for no longer than half a second.
func (p *Process) ReadStdout(ctx context.Context, n int) ([]byte, error) {
	return p.stdout.read(ctx, n)
}

// ReadStderr is ReadStdout for standard error. With a terminal both read the
// same stream.
func (p *Process) ReadStderr(ctx context.Context, n int) ([]byte, error) {
	if p.stderr == nil {
		return p.stdout.read(ctx, n)
	}
	return p.stderr.read(ctx, n)
}

// Resize sets the size of the terminal in characters. Without a terminal the
// error is ErrNoTTY.
func (p *Process) Resize(rows, cols uint16) error {
	if p.tty == nil {
		return ErrNoTTY
	}
	raw, err := p.tty.SyscallConn()
	if err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		inner = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
	if err := errors.Join(err, inner); err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	return nil
}

// release closes the agent's ends of the streams. A read in flight gets what
// there is first.
func (p *Process) release() {
	if p.tty == nil {
		p.stdin.close()
	}
	if p.stdout != nil {
		p.stdout.release()
	}
	if p.stderr != nil {
		p.stderr.release()
	}
}
