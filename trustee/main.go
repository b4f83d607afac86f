// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Command trustee is a small key broker: it attests confidential guests and
// releases secrets to those that its policies affirm.
//
// It is a host tool of the workload's owner and no part of the guest. The
// sub-command serve runs the broker over a folder made by init; the others are
// the owner's side of its administration interface. Exit status is 0 for
// success, 1 for a failure and 2 for wrong usage.
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

	"github.com/spf13/cobra"
)

const (
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	a := &app{in: os.Stdin, out: os.Stdout, errs: os.Stderr}
	code := a.run(ctx, os.Args[1:])
	if code != 0 {
		stop()
		os.Exit(code)
	}
}

// app is one run of the command.
type app struct {
	in        io.Reader
	out, errs io.Writer
	// begun is set when the command line was understood.
	begun bool
}

func (a *app) run(ctx context.Context, args []string) int {
	root := &cobra.Command{
		Use:           "trustee",
		Short:         "A small key broker for confidential guests",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("which of its sub-commands? See --help")
		},
	}
	root.AddCommand(a.initCommand(), a.serveCommand(), a.resourceCommand(), a.policyCommand(), a.referenceCommand(), a.adminTokenCommand(), a.verifyCommand())
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.errs)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	// Nothing can be done when the error stream is closed.
	_, _ = fmt.Fprintln(a.errs, "trustee:", strings.Join(strings.Fields(err.Error()), " "))
	if !a.begun {
		return exitUsage
	}
	return exitFailure
}

type action func(ctx context.Context, args []string) error

// do marks the point from which an error is no longer one of usage.
func (a *app) do(f action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.begun = true
		return f(cmd.Context(), args)
	}
}

// group makes a command that only holds others.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("%s: which of its sub-commands? See --help", use)
		},
	}
	c.AddCommand(children...)
	return c
}

// required marks flags of c that have no default; they must exist.
func required(c *cobra.Command, flags ...string) *cobra.Command {
	for _, f := range flags {
		if err := c.MarkFlagRequired(f); err != nil {
			c.RunE = func(*cobra.Command, []string) error { return err }
		}
	}
	return c
}
