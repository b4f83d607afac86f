// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/internal/klog"
)

// RoleGuest is the argument that makes the binary the guest role.
const RoleGuest = "guest"

// RoleCgroup is the cgroup in which the guest role starts.
const RoleCgroup = cgroupRoot + "/cocoon"

// Deadlines of an orderly end.
const (
	// StopTimeout is what the guest role has between SIGTERM and SIGKILL.
	StopTimeout = 10 * time.Second
	// killTimeout is how long killed processes may take to disappear.
	killTimeout = 5 * time.Second
	// drainTimeout is how long the output of an ended guest role may go on;
	// a process that it left behind may hold the pipe open.
	drainTimeout = time.Second
)

// tailLines is how many lines of the guest role are repeated when it dies.
const tailLines = 20

// ErrRole is wrapped by the error that reports how the guest role ended, unless
// it ended with exit code 0.
var ErrRole = errors.New("the guest role ended")

// errStuck is returned when even SIGKILL does not end the guest role.
var errStuck = errors.New("the guest role does not end")

// RoleEnv returns the environment of the guest role. It is made here and not
// inherited, as the kernel puts unknown parameters into that of PID 1.
func RoleEnv() []string {
	return []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin", "HOME=/root", "TERM=linux"}
}

type ended struct {
	status unix.WaitStatus
	err    error
}

// superviseRole starts the guest role and returns when it has ended. A request
// to stop, by signal or by ctx, is passed on to it.
func (s *State) superviseRole(ctx context.Context) error {
	child, err := s.Deps.Procs.Start(Role{Args: []string{"cocoon", RoleGuest}, Env: RoleEnv(), Cgroup: RoleCgroup})
	if err != nil {
		return fmt.Errorf("start the guest role: %w", err)
	}
	out := newOutput(s.kernel)
	copied := make(chan error, 1)
	go func() { copied <- guard(func() error { return out.copy(child.Output) }) }()
	exit := make(chan ended, 1)
	go func() { exit <- reapUntil(s.Deps.Procs, child.Pid) }()

	end, err := s.awaitEnd(ctx, child.Pid, exit)
	err = errors.Join(err, s.drain(child.Output, copied))
	if err == nil {
		err = end.err
	}
	if err == nil && end.status.Exited() && end.status.ExitStatus() == 0 {
		s.Log.Info("guest role finished")
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%w with %s", ErrRole, describe(end.status))
	}
	return errors.Join(err, out.report())
}

// awaitEnd waits for the guest role, asks it to stop when PID 1 is asked to,
// and forces it when it does not.
func (s *State) awaitEnd(ctx context.Context, pid int, exit <-chan ended) (ended, error) {
	select {
	case e := <-exit:
		return e, nil
	case sig := <-s.Deps.Signals:
		s.Log.Info("stopping the guest role", "signal", sig.String())
	case <-ctx.Done():
		s.Log.Info("stopping the guest role", "cause", ctx.Err())
	}
	for _, stop := range []struct {
		sig  unix.Signal
		wait time.Duration
	}{{unix.SIGTERM, StopTimeout}, {unix.SIGKILL, killTimeout}} {
		if err := s.Deps.Procs.Kill(pid, stop.sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return ended{}, fmt.Errorf("send %s to the guest role: %w", stop.sig, err)
		}
		select {
		case e := <-exit:
			return e, nil
		case <-s.Deps.After(stop.wait):
			s.Log.Warn("guest role did not end", "signal", stop.sig.String(), "after", stop.wait)
		}
	}
	return ended{}, errStuck
}

// drain lets the copy of the output come to its end, but not for ever.
func (s *State) drain(output io.Closer, copied <-chan error) error {
	select {
	case err := <-copied:
		return errors.Join(err, output.Close())
	case <-s.Deps.After(drainTimeout):
	}
	if err := output.Close(); err != nil {
		return fmt.Errorf("close the guest role's output: %w", err)
	}
	<-copied //nolint:errcheck // A read that was cut off; what it had read is in the log.
	return nil
}

// reapUntil collects every child and orphan until pid itself has ended. There
// is always a child to wait for until then, so waiting may block.
func reapUntil(p Processes, pid int) (e ended) {
	err := guard(func() error {
		for {
			got, status, err := p.Wait(false)
			switch {
			case errors.Is(err, unix.EINTR):
			case err != nil:
				return fmt.Errorf("wait for the guest role: %w", err)
			case got == pid && (status.Exited() || status.Signaled()):
				e.status = status
				return nil
			}
		}
	})
	e.err = err
	return e
}

func describe(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return fmt.Sprintf("signal %s", ws.Signal())
	}
	return fmt.Sprintf("exit code %d", ws.ExitStatus())
}

// output passes lines of the guest role to the kernel log and remembers the
// last of them.
type output struct {
	log  *klog.Log
	tail []string
}

func newOutput(log *klog.Log) *output { return &output{log: log} }

// maxLine is the longest line that is passed on in one piece.
const maxLine = 16 << 10

func (o *output) copy(r io.Reader) error {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := br.ReadSlice('\n')
		if len(line) > 0 {
			if err := o.line(string(line)); err != nil {
				return err
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read the guest role's output: %w", err)
		}
	}
}

func (o *output) line(line string) error {
	p, text := splitPriority(line)
	if len(o.tail) == tailLines {
		o.tail = o.tail[1:]
	}
	o.tail = append(o.tail, text)
	return o.log.Record(p, "guest: "+text)
}

// report repeats the last lines where the console shows them.
func (o *output) report() error {
	for _, l := range o.tail {
		if err := o.log.Record(klog.Error, "last words: "+l); err != nil {
			return err
		}
	}
	return nil
}

// splitPriority takes a leading "<N>" off a line.
func splitPriority(line string) (klog.Priority, string) {
	if len(line) >= 3 && line[0] == '<' && line[2] == '>' && line[1] >= '0' && line[1] <= '7' {
		return klog.Priority(line[1] - '0'), line[3:]
	}
	return klog.Info, line
}
