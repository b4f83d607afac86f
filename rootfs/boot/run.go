// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"cocoon/internal/klog"
)

// ErrNotInit is returned when the process is not PID 1. Nothing was changed.
var ErrNotInit = errors.New("this process is not PID 1")

// logLimit lets the burst of a boot through and stops a flood.
var logLimit = klog.Limit{PerSecond: 200, Burst: 2000}

// Main runs PID 1 with the real kernel. It returns only if the process is not
// PID 1 or the machine could not be powered off; the result is an exit code.
// As the exit of PID 1 is a kernel panic, the parameter panic=-1 makes even
// that the end of the machine.
func Main(ctx context.Context) int {
	if err := Run(ctx, Host()); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
		return 1
	}
	return 0
}

// Run brings the guest up, runs the guest role to its end, and powers the
// machine off, in every case but one: if the process is not PID 1 it returns
// ErrNotInit. Otherwise it returns what went wrong on the way, after the
// attempt to power off; with real Deps it does not return.
func Run(ctx context.Context, d Deps) error {
	return run(d, func(s *State) error { return s.bootAndServe(ctx) })
}

// run does what makes PID 1, and after that powers the machine off.
func run(d Deps, what func(*State) error) error {
	if d.Pid() != 1 {
		return ErrNotInit
	}
	kmsg, err := d.Kern.OpenLog()
	if err != nil {
		err = fmt.Errorf("open the kernel log: %w", err)
		fmt.Fprintln(d.Console, "init: fatal:", err)
		return errors.Join(err, d.Kern.PowerOff())
	}
	log := klog.New(kmsg, logLimit)
	s := &State{Deps: d, Log: slog.New(klog.NewHandler(log, "init: ", slog.LevelInfo)), kernel: log}
	s.Timeline.Kernel = d.Uptime().Milliseconds()
	err = guard(func() error { return what(s) })
	if err != nil {
		s.fatal(log, err)
	}
	return errors.Join(err, s.powerOff())
}

func (s *State) bootAndServe(ctx context.Context) error {
	if err := runSteps(ctx, s, Steps()); err != nil {
		return err
	}
	s.Log.Info("boot finished", "kernel_ms", s.Timeline.Kernel, "init_ms", millis(s.Timeline.Total()))
	return s.superviseRole(ctx)
}
