// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Command agentctl drives a Kata agent by hand, over the connections that a
// shim or cloud-api-adaptor would use.
//
// It runs on the operator's machine. The guest at the other end may lie in its
// answers: they are printed, never acted upon.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	os.Exit(run(context.Background(), os.Args[1:], terminal{in: os.Stdin, out: os.Stdout, err: os.Stderr, signals: signals}))
}

// terminal is what the command talks to.
type terminal struct {
	in       io.Reader
	out, err io.Writer
	signals  <-chan os.Signal
	patience time.Duration // how long a signal waits for a process; 0 means takeLimit
}

// Exit codes. A process that ran in the guest gives its own.
const (
	exitFailed = 1
	exitUsage  = 2
)

// exitCode ends the command with the code of a process and without a message.
type exitCode int

// Error says what happened, for callers that print it.
func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usageError is an error of the command line.
type usageError struct{ error }

// Unwrap returns the cause.
func (e usageError) Unwrap() error { return e.error }

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, t terminal) int {
	a := &app{term: t}
	root := a.command()
	root.SetArgs(args)
	root.SetIn(t.in)
	root.SetOut(t.out)
	root.SetErr(t.err)
	err := root.ExecuteContext(ctx)
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	if err == nil {
		return 0
	}
	// The only thing left to do with an error of printing is the exit code.
	_, _ = fmt.Fprintln(t.err, "agentctl:", strings.Join(strings.Fields(err.Error()), " "))
	if _, ok := errors.AsType[usageError](err); ok || !a.started {
		return exitUsage
	}
	return exitFailed
}
