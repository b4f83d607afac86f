// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"cocoon/agent/agentctl/client"
	"cocoon/internal/wire/agentpb"
)

func (a *app) checkCommand() *cobra.Command {
	return a.simple("check", "Ask whether the agent serves", cobra.NoArgs, func(context.Context, *client.Client, []string) error {
		return a.printf("serving\n") // connecting has asked
	})
}

func (a *app) versionCommand() *cobra.Command {
	return a.simple("version", "Print the agent's version", cobra.NoArgs, func(ctx context.Context, c *client.Client, _ []string) error {
		api, agent, err := c.Version(ctx)
		if err != nil {
			return err
		}
		return a.printf("agent %s, API %s\n", agent, api)
	})
}

func (a *app) detailsCommand() *cobra.Command {
	return a.simple("details", "Print what the guest says about itself", cobra.NoArgs, func(ctx context.Context, c *client.Client, _ []string) error {
		d, err := c.GetGuestDetails(ctx, &agentpb.GuestDetailsRequest{MemBlockSize: true, MemHotplugProbe: true})
		if err != nil {
			return fmt.Errorf("get guest details: %w", err)
		}
		return a.printMessage(d)
	})
}

func (a *app) statsCommand() *cobra.Command {
	return a.simple("stats CONTAINER", "Print the resource use of a container", cobra.ExactArgs(1), func(ctx context.Context, c *client.Client, args []string) error {
		s, err := c.StatsContainer(ctx, &agentpb.StatsContainerRequest{ContainerId: args[0]})
		if err != nil {
			return fmt.Errorf("get statistics of %q: %w", args[0], err)
		}
		return a.printMessage(s)
	})
}

func (a *app) signalCommand() *cobra.Command {
	exec := ""
	cmd := a.simple("signal CONTAINER SIGNAL", "Send a signal, by name or number", cobra.ExactArgs(2), func(ctx context.Context, c *client.Client, args []string) error {
		sig, err := parseSignal(args[1])
		if err != nil {
			return usageError{err}
		}
		return c.Signal(ctx, client.Process{ContainerID: args[0], ExecID: exec}, sig)
	})
	cmd.Example = "  agentctl signal web TERM\n  agentctl signal web 9   # the whole container"
	cmd.Flags().StringVar(&exec, "exec", "", "`id` of a further process; without it the first one")
	return cmd
}

// parseSignal reads "TERM", "SIGTERM" or "15".
func parseSignal(s string) (syscall.Signal, error) {
	if n, err := strconv.ParseUint(s, 10, 8); err == nil && n <= 64 {
		return syscall.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("unknown signal %q", s)
}
