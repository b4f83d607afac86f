// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"cocoon/agent/agentctl/client"
)

// takeLimit is how long a signal waits for a process to send it to.
const takeLimit = 2 * time.Second

// newID makes an id for a container or process that the user did not name.
func newID() string { return "ctl-" + strings.ToLower(rand.Text()[:10]) }

func (a *app) runCommand() *cobra.Command {
	var k client.Container
	stdin := false
	cmd := &cobra.Command{
		Use:   "run IMAGE -- COMMAND...",
		Short: "Run a container to its end: create, start, copy its output, remove",
		Long: "Run a container to its end. Its exit code becomes that of agentctl. The first Ctrl-C sends SIGTERM to it,\n" +
			"the second SIGKILL. The sandbox must exist.",
		Example: "  agentctl sandbox create pod && agentctl run registry.example.com/app:1 -- /bin/app",
		Args:    atLeast(2, "an image and a command"),
	}
	containerFlags(cmd, &k)
	cmd.Flags().BoolVarP(&stdin, "interactive", "i", false, "copy standard input to the container")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := complete(&k, args); err != nil {
			return err
		}
		return a.attached(cmd.Context(), k.TTY, stdin, func(ctx context.Context, c *client.Client, s client.Streams) (int, error) {
			return c.Run(ctx, k, s)
		})
	}
	return cmd
}

func (a *app) execCommand() *cobra.Command {
	var p client.Command
	stdin := false
	cmd := &cobra.Command{
		Use:     "exec CONTAINER -- COMMAND...",
		Short:   "Run a further process in a container",
		Example: "  agentctl exec -it web -- /bin/sh",
		Args:    atLeast(2, "a container and a command"),
	}
	f := cmd.Flags()
	f.BoolVarP(&p.TTY, "tty", "t", false, "give the process a terminal")
	f.BoolVarP(&stdin, "interactive", "i", false, "copy standard input to the process")
	f.StringArrayVarP(&p.Env, "env", "e", nil, "`KEY=value` for the environment; may be repeated")
	f.StringVar(&p.Cwd, "cwd", "/", "working `directory`")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p.ContainerID, p.ExecID, p.Args = args[0], newID(), args[1:]
		return a.attached(cmd.Context(), p.TTY, stdin, func(ctx context.Context, c *client.Client, s client.Streams) (int, error) {
			return c.Exec(ctx, p, s)
		})
	}
	return cmd
}

func atLeast(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < n {
			return usageError{errors.New("needs " + what)}
		}
		return nil
	}
}

// attached runs a process with this terminal and ends with its exit code.
func (a *app) attached(ctx context.Context, tty, stdin bool, do func(context.Context, *client.Client, client.Streams) (int, error)) error {
	return a.with(ctx, func(ctx context.Context, c *client.Client) (err error) {
		s := client.Streams{Stdout: a.term.out, Stderr: a.term.err}
		if stdin {
			s.Stdin = a.term.in
		}
		if tty && stdin { // else nobody would read the keys
			restore, resizes, err := a.rawTerminal()
			if err != nil {
				return err
			}
			defer restore()
			s.Resizes = resizes
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		forward, stop := a.forwardSignals(cancel)
		defer stop()
		s.Signals = forward
		code, err := do(ctx, c, s)
		if err != nil || code == 0 {
			return err
		}
		return exitCode(code)
	})
}

// forwardSignals turns the first signal of the user into SIGTERM for the
// process and the next into SIGKILL. While there is no process yet that takes
// them, as during the pull of an image, and after SIGKILL, a signal gives up.
func (a *app) forwardSignals(giveUp func()) (<-chan syscall.Signal, func()) {
	out := make(chan syscall.Signal)
	end, done := make(chan struct{}), make(chan struct{})
	patience := takeLimit
	if a.term.patience > 0 {
		patience = a.term.patience
	}
	forward := func(sig syscall.Signal) bool {
		select {
		case <-a.term.signals:
		case <-end:
			return false
		}
		select {
		case out <- sig:
			return true
		case <-time.After(patience):
		case <-end:
		}
		return false
	}
	go func() {
		defer close(done)
		if forward(syscall.SIGTERM) && forward(syscall.SIGKILL) {
			select {
			case <-a.term.signals:
			case <-end:
			}
		}
		giveUp()
	}()
	return out, func() { close(end); <-done }
}

// rawTerminal hands the user's terminal to the process, if there is one: keys
// go through unchanged, and changes of its size are reported.
func (a *app) rawTerminal() (restore func(), resizes <-chan client.Size, err error) {
	f, ok := a.term.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func() {}, nil, nil
	}
	old, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, nil, err
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	sizes := make(chan client.Size, 1)
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			if w, h, err := term.GetSize(int(f.Fd())); err == nil {
				select {
				case sizes <- client.Size{Rows: uint16(h), Columns: uint16(w)}:
				case <-end:
					return
				}
			}
			select {
			case <-changed:
			case <-end:
				return
			}
		}
	}()
	return func() {
		signal.Stop(changed)
		close(end)
		<-done
		// If it fails the user sees it on his terminal.
		_ = term.Restore(int(f.Fd()), old)
	}, sizes, nil
}
