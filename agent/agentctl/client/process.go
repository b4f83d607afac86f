// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cocoon/internal/wire/agentpb"
)

// streamChunk is what one read or write of a stream carries at most.
const streamChunk = 32 << 10

// DefaultCreateLimit bounds CreateContainer, during which the guest pulls the
// image.
const DefaultCreateLimit = 10 * time.Minute

// stdinGrace is how long a write to a process that has ended may take.
const stdinGrace = 2 * time.Second

// Streams connects a process with the caller. Nil members are left out: no
// Stdin is sent, output is read and discarded.
type Streams struct {
	// Stdin is copied until it ends, then the process's stdin is closed. A read
	// that blocks when the process ends outlives the call; the goroutine ends
	// with that read.
	Stdin          io.Reader
	Stdout, Stderr io.Writer

	// Signals are sent to the process. Resizes become the size of its terminal.
	Signals <-chan syscall.Signal
	Resizes <-chan Size
}

// Size of a terminal in characters.
type Size struct{ Rows, Columns uint16 }

// Process names a process: ExecID is that of Exec, or "" or the container's
// for its init process.
type Process struct {
	ContainerID, ExecID string
	TTY                 bool // no separate stderr
}

// Create creates a container without starting it. limit bounds the time, image
// pull included; 0 is DefaultCreateLimit.
func (c *Client) Create(ctx context.Context, k Container, limit time.Duration) error {
	req, err := k.Request()
	if err != nil {
		return err
	}
	if limit == 0 {
		limit = DefaultCreateLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if _, err := c.CreateContainer(ctx, req); err != nil {
		return fmt.Errorf("create container %q: %w", k.ID, err)
	}
	return nil
}

// Start starts a created container.
func (c *Client) Start(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if _, err := c.StartContainer(ctx, &agentpb.StartContainerRequest{ContainerId: id}); err != nil {
		return fmt.Errorf("start container %q: %w", id, err)
	}
	return nil
}

// Remove kills what is left of a container and removes it.
func (c *Client) Remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if _, err := c.RemoveContainer(ctx, &agentpb.RemoveContainerRequest{ContainerId: id}); err != nil {
		return fmt.Errorf("remove container %q: %w", id, err)
	}
	return nil
}

// Signal sends sig to a process. SIGKILL to the init process by an empty
// ExecID kills the whole container.
func (c *Client) Signal(ctx context.Context, p Process, sig syscall.Signal) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err := c.SignalProcess(ctx, &agentpb.SignalProcessRequest{ContainerId: p.ContainerID, ExecId: p.ExecID, Signal: uint32(sig)})
	if err != nil {
		return fmt.Errorf("send signal %d to %q: %w", sig, p.ContainerID, err)
	}
	return nil
}

// Run creates and starts a container, copies its streams until they end, waits
// for it and removes it. It returns the exit code, 128+n after signal n. The
// container is removed also when a step fails or ctx ends.
func (c *Client) Run(ctx context.Context, k Container, s Streams) (code int, err error) {
	if err := c.Create(ctx, k, 0); err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, c.Remove(context.WithoutCancel(ctx), k.ID))
	}()
	if err := c.Start(ctx, k.ID); err != nil {
		return 0, err
	}
	return c.Attach(ctx, Process{ContainerID: k.ID, ExecID: k.ID, TTY: k.TTY}, s)
}

// Command is a process to run in a container that runs.
type Command struct {
	ContainerID, ExecID string // ExecID is unused in the container
	Args, Env           []string
	Cwd                 string
	TTY                 bool
}

// Exec runs cmd and returns its exit code, like Run.
func (c *Client) Exec(ctx context.Context, cmd Command, s Streams) (int, error) {
	if err := c.startExec(ctx, cmd); err != nil {
		return 0, err
	}
	return c.Attach(ctx, Process{ContainerID: cmd.ContainerID, ExecID: cmd.ExecID, TTY: cmd.TTY}, s)
}

func (c *Client) startExec(ctx context.Context, cmd Command) error {
	if cmd.ExecID == "" || cmd.ExecID == cmd.ContainerID || len(cmd.Args) == 0 {
		return fmt.Errorf("run a command in %q: an exec id of its own and a command are needed", cmd.ContainerID)
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err := c.ExecProcess(ctx, &agentpb.ExecProcessRequest{
		ContainerId: cmd.ContainerID, ExecId: cmd.ExecID, Process: newProcess(cmd.Args, cmd.Env, cmd.Cwd, cmd.TTY),
	})
	if err != nil {
		return fmt.Errorf("run %q in %q: %w", cmd.Args[0], cmd.ContainerID, err)
	}
	return nil
}

// Attach copies the streams of a started process until its output ends and
// returns its exit code.
func (c *Client) Attach(ctx context.Context, p Process, s Streams) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var side sync.WaitGroup // what ends with the process
	side.Go(func() { c.forward(ctx, p, s) })
	ended := make(chan struct{})
	stdin := make(chan error, 1)
	if s.Stdin == nil {
		stdin <- nil
	} else {
		chunks := make(chan chunk)
		go readChunks(s.Stdin, chunks, ended)
		side.Go(func() { stdin <- c.sendStdin(ctx, p, chunks, ended) })
	}

	err := c.copyOutputs(ctx, p, s)
	var code int
	if err == nil {
		code, err = c.wait(ctx, p)
	}
	close(ended)
	// A write that is under way is answered first, unless something that the
	// process left behind holds its stdin and does not read.
	grace := stdinGrace
	if err != nil {
		grace = 0
	}
	timer := time.AfterFunc(grace, cancel)
	sent := <-stdin
	timer.Stop()
	cancel()
	side.Wait()
	// That the process ended before its input did is no error.
	if status.Code(sent) == codes.PermissionDenied {
		err = errors.Join(err, sent)
	}
	return code, err
}

func (c *Client) copyOutputs(ctx context.Context, p Process, s Streams) error {
	// A read that fails ends the other: a process that nobody reads from any
	// more may never end its streams.
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return copyStream(ctx, p, c.ReadStdout, s.Stdout) })
	if !p.TTY {
		g.Go(func() error { return copyStream(ctx, p, c.ReadStderr, s.Stderr) })
	}
	return g.Wait()
}

type readCall func(context.Context, *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error)

// copyStream reads to the end even if w fails: a process must not block on a
// full pipe because its reader has gone.
func copyStream(ctx context.Context, p Process, read readCall, w io.Writer) error {
	var failed error
	for {
		r, err := read(ctx, &agentpb.ReadStreamRequest{ContainerId: p.ContainerID, ExecId: p.ExecID, Len: streamChunk})
		if err != nil {
			return errors.Join(failed, fmt.Errorf("read output of %q: %w", p.ContainerID, err))
		}
		if len(r.GetData()) == 0 {
			return failed
		}
		if w == nil || failed != nil {
			continue
		}
		if _, err := w.Write(r.GetData()); err != nil {
			failed = fmt.Errorf("write output of %q: %w", p.ContainerID, err)
		}
	}
}

func (c *Client) wait(ctx context.Context, p Process) (int, error) {
	r, err := c.WaitProcess(ctx, &agentpb.WaitProcessRequest{ContainerId: p.ContainerID, ExecId: p.ExecID})
	if err != nil {
		return 0, fmt.Errorf("wait for %q: %w", p.ContainerID, err)
	}
	return int(r.GetStatus()), nil
}

// chunk is what one read of the input gave.
type chunk struct {
	data []byte
	err  error
}

// readChunks reads r until it ends, fails or the process has ended. A read that
// blocks then outlives the process; the goroutine ends with it.
func readChunks(r io.Reader, out chan<- chunk, ended <-chan struct{}) {
	for {
		buf := make([]byte, streamChunk)
		n, err := r.Read(buf)
		select {
		case out <- chunk{buf[:n], err}:
		case <-ended:
			return
		}
		if err != nil {
			return
		}
	}
}

// sendStdin writes chunks to the process until they end, then closes its
// stdin, or until the process has ended.
func (c *Client) sendStdin(ctx context.Context, p Process, chunks <-chan chunk, ended <-chan struct{}) error {
	for {
		var in chunk
		select {
		case in = <-chunks:
		case <-ended:
			return nil
		}
		if err := c.writeStdin(ctx, p, in.data); err != nil {
			return err
		}
		if in.err == nil {
			continue
		}
		if _, err := c.CloseStdin(ctx, &agentpb.CloseStdinRequest{ContainerId: p.ContainerID, ExecId: p.ExecID}); err != nil {
			return fmt.Errorf("close stdin of %q: %w", p.ContainerID, err)
		}
		if errors.Is(in.err, io.EOF) {
			return nil
		}
		return fmt.Errorf("read stdin: %w", in.err)
	}
}

func (c *Client) writeStdin(ctx context.Context, p Process, data []byte) error {
	for len(data) > 0 {
		w, err := c.WriteStdin(ctx, &agentpb.WriteStreamRequest{ContainerId: p.ContainerID, ExecId: p.ExecID, Data: data})
		if err != nil {
			return fmt.Errorf("write stdin of %q: %w", p.ContainerID, err)
		}
		if w.GetLen() == 0 || int(w.GetLen()) > len(data) {
			return fmt.Errorf("write stdin of %q: the agent took %d of %d bytes", p.ContainerID, w.GetLen(), len(data))
		}
		data = data[w.GetLen():]
	}
	return nil
}

// forward sends signals and terminal sizes until ctx ends. A call that fails
// is not fatal: the process may have ended in the meantime.
func (c *Client) forward(ctx context.Context, p Process, s Streams) {
	for {
		select {
		case <-ctx.Done():
			return
		case sig, ok := <-s.Signals:
			if !ok {
				s.Signals = nil
				continue
			}
			_ = c.Signal(ctx, p, sig)
		case size, ok := <-s.Resizes:
			if !ok {
				s.Resizes = nil
				continue
			}
			c.resize(ctx, p, size)
		}
	}
}

func (c *Client) resize(ctx context.Context, p Process, size Size) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	// The size is cosmetic, and the process may have ended.
	_, _ = c.TtyWinResize(ctx, &agentpb.TtyWinResizeRequest{
		ContainerId: p.ContainerID, ExecId: p.ExecID, Row: uint32(size.Rows), Column: uint32(size.Columns),
	})
}
