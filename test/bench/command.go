// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// usage is what one run of a program took.
type usage struct {
	wall time.Duration
	peak int64 // greatest resident memory, in bytes
}

// command prepares a child that dies with this program.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// run waits for a program, output goes into its error.
func run(ctx context.Context, name string, args ...string) error {
	out, err := command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(name), args[0], err, bytes.TrimSpace(out))
	}
	return nil
}

// samplePeriod is how often the peak of a child is read. What a child adds in
// its last period is missed.
const samplePeriod = 5 * time.Millisecond

// measure runs a program and takes its time and peak memory. The kernel's
// rusage is of no use for the peak: a child made with vfork inherits that of
// its parent.
func measure(ctx context.Context, name string, args ...string) (usage, error) {
	cmd := command(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return usage{}, fmt.Errorf("start %s: %w", name, err)
	}
	done, sampled := make(chan struct{}), make(chan int64, 1)
	go func() { sampled <- samplePeak(cmd.Process.Pid, done) }()
	err := cmd.Wait()
	u := usage{wall: time.Since(start)}
	close(done)
	u.peak = <-sampled
	if err != nil {
		return u, fmt.Errorf("%s %s: %w: %s", filepath.Base(name), args[0], err, bytes.TrimSpace(out.Bytes()))
	}
	return u, nil
}

// samplePeak reads the peak of a process until done.
func samplePeak(pid int, done <-chan struct{}) (peak int64) {
	tick := time.NewTicker(samplePeriod)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return peak
		case <-tick.C:
			// Between its end and done the process has no memory any more.
			if hwm, err := memoryOf(pid, "VmHWM"); err == nil {
				peak = max(peak, hwm)
			}
		}
	}
}

// memoryOf returns a field of /proc/PID/status in bytes; pid 0 is this
// process.
func memoryOf(pid int, field string) (int64, error) {
	who := "self"
	if pid != 0 {
		who = strconv.Itoa(pid)
	}
	b, err := os.ReadFile(filepath.Join("/proc", who, "status"))
	if err != nil {
		return 0, fmt.Errorf("read memory use: %w", err)
	}
	return statusField(string(b), field)
}

// statusField finds "NAME: NUMBER kB" and returns the number in bytes.
func statusField(status, name string) (int64, error) {
	for line := range strings.Lines(status) {
		key, value, ok := strings.Cut(line, ":")
		if !ok || key != name {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("parse memory use %q: %w", strings.TrimSpace(line), err)
		}
		return kib << 10, nil
	}
	return 0, fmt.Errorf("no %s in the status of the process", name)
}
