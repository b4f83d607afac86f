// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cocoon/internal/wire/agentpb"
)

const (
	// streamBytes is what a process writes for the measurement of its output.
	streamBytes = 256 << 20
	// streamChunk is what one read asks for, as shims do.
	streamChunk = 32 << 10
	// heldContainers are those whose memory is measured.
	heldContainers = 20
)

// measureRPC measures what a shim does all the time: ask whether the agent
// lives, and read what processes write.
func (b *bench) measureRPC(ctx context.Context) error {
	g, err := startGuestRole(ctx, b.guestBinary(), filepath.Join(b.dir, "rpc"))
	if err != nil {
		return err
	}
	root := filepath.Join(g.root, "run/kata-containers/bench-root")
	err = busyboxRoot(root)
	ours := &agentRunner{agent: g.agent, root: root}
	for _, measure := range []func(context.Context, *guestRole, *agentRunner) error{b.measureChecks, b.measureOutput, b.measureMemory} {
		if err == nil {
			err = measure(ctx, g, ours)
		}
	}
	return errors.Join(err, g.stop(ctx))
}

func (b *bench) measureChecks(ctx context.Context, g *guestRole, _ *agentRunner) error {
	took, err := repeat(func() error { return g.agent.Check(ctx) })
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	b.add(row{Group: "rpc", Name: "Health.Check, one after the other", Unit: "calls/s", Ours: rate(took)})
	b.add(row{Group: "rpc", Name: "Health.Check, p99", Unit: "µs", Ours: micros(percentile(took, 99))})
	return nil
}

// output is a program that writes streamBytes, in pieces that fill a pipe.
func output() []string {
	return []string{"/bin/dd", "if=/dev/zero", "bs=64k", "count=" + strconv.Itoa(streamBytes>>16)}
}

// measureOutput reads a process's output by ReadStdout, and beside it that of
// the same program through a plain pipe.
func (b *bench) measureOutput(ctx context.Context, _ *guestRole, ours *agentRunner) error {
	const id = "bench-output"
	req, err := ours.request(id, output()...)
	if err != nil {
		return err
	}
	if _, err := ours.agent.CreateContainer(ctx, req); err != nil {
		return fmt.Errorf("create container: %w", err)
	}
	if err := ours.agent.Start(ctx, id); err != nil {
		return err
	}
	start, total := time.Now(), 0
	for {
		r, err := ours.agent.AgentServiceService.ReadStdout(ctx, &agentpb.ReadStreamRequest{ContainerId: id, ExecId: id, Len: streamChunk})
		if err != nil {
			return fmt.Errorf("read output: %w", err)
		}
		if len(r.GetData()) == 0 {
			break
		}
		total += len(r.GetData())
	}
	mine := megabytes(total, time.Since(start))
	if total != streamBytes {
		return fmt.Errorf("%d bytes of %d came", total, streamBytes)
	}
	if err := ours.agent.Remove(ctx, id); err != nil {
		return err
	}
	pipe, err := pipeOutput(ctx, ours.root)
	if err != nil {
		return err
	}
	b.add(row{Group: "rpc", Name: "ReadStdout, " + strconv.Itoa(streamChunk>>10) + " KiB a call", Unit: "MB/s", Ours: mine}.beside("a pipe", pipe))
	return nil
}

func pipeOutput(ctx context.Context, root string) (float64, error) {
	args := output()
	cmd := exec.CommandContext(ctx, filepath.Join(root, args[0]), args[1:]...)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{pipe}, make([]byte, streamChunk))
	took := time.Since(start)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return 0, fmt.Errorf("read from a pipe: %w", err)
	}
	return megabytes(int(n), took), nil
}

func megabytes(n int, took time.Duration) float64 { return float64(n) / 1e6 / took.Seconds() }

// measureMemory measures what each running container costs in the agent.
func (b *bench) measureMemory(ctx context.Context, g *guestRole, ours *agentRunner) (err error) {
	before, err := resident(g.cmd.Process.Pid)
	if err != nil {
		return err
	}
	for i := range heldContainers {
		remove, holdErr := ours.hold(ctx, fmt.Sprintf("bench-memory-%d", i))
		if holdErr != nil {
			return holdErr
		}
		defer func() { err = errors.Join(err, remove(context.WithoutCancel(ctx))) }()
	}
	after, err := resident(g.cmd.Process.Pid)
	if err != nil {
		return err
	}
	b.say("%d containers; the guest role had %d KiB before and %d KiB after", heldContainers, before, after)
	b.add(row{Group: "rpc", Name: "memory of the agent for each container", Unit: "KiB", Ours: float64(after-before) / heldContainers})
	return nil
}

// resident is the memory of a process in KiB.
func resident(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "kB")))
		}
	}
	return 0, fmt.Errorf("process %d has no VmRSS", pid)
}
