// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"cocoon/agent/agentctl/client"
)

// dialLimit bounds connecting and the first answer. QEMU's user network, for
// one, accepts connections for guests that do not listen.
const dialLimit = 10 * time.Second

// app is one invocation.
type app struct {
	term    terminal
	started bool // a command's own code runs: errors are no usage errors any more
	connect string
	tls     client.TLSFiles
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "agentctl",
		Short:         "Drive a Kata agent by hand",
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRun: func(*cobra.Command, []string) {
			a.started = true
		},
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	f := root.PersistentFlags()
	f.StringVarP(&a.connect, "connect", "c", "unix:///run/kata-containers/agent.sock", "`address` of the agent: unix:///path, tcp://host:port or vsock://cid:port")
	f.StringVar(&a.tls.CA, "tls-ca", "", "PEM `file` with the roots of the guest's certificate; turns TLS on")
	f.StringVar(&a.tls.Cert, "tls-cert", "", "PEM `file` with the client certificate")
	f.StringVar(&a.tls.Key, "tls-key", "", "PEM `file` with its key")
	f.StringVar(&a.tls.ServerName, "server-name", "", "`name` in the guest's certificate, if it is not the host of the address")
	root.AddCommand(a.checkCommand(), a.versionCommand(), a.detailsCommand(), a.sandboxCommand(), a.runCommand(),
		a.containerCommand(), a.execCommand(), a.signalCommand(), a.statsCommand(), a.copyCommand(), a.policyCommand(), a.replayCommand())
	return root
}

// group makes a command that only holds others.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q for %q", args[0], use)}
			}
			return usageError{fmt.Errorf("%s needs a sub-command; see agentctl %s --help", use, use)}
		},
	}
	cmd.AddCommand(children...)
	return cmd
}

// with connects and calls do.
func (a *app) with(ctx context.Context, do func(context.Context, *client.Client) error) (err error) {
	addr, err := client.ParseAddress(a.connect)
	if err != nil {
		return usageError{err}
	}
	cfg, err := a.tls.Config()
	if err != nil {
		return usageError{err}
	}
	dialCtx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	c, err := client.Dial(dialCtx, addr, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.Check(dialCtx); err != nil {
		if cfg == nil && addr.Network == "tcp" {
			return fmt.Errorf("%w (an agent with TLS needs --tls-ca)", err)
		}
		return err
	}
	return do(ctx, c)
}

// simple makes a command that only calls the agent.
func (a *app) simple(use, short string, args cobra.PositionalArgs, do func(context.Context, *client.Client, []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short,
		Args: func(cmd *cobra.Command, given []string) error {
			if err := args(cmd, given); err != nil {
				return usageError{err}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, given []string) error {
			ctx, stop := a.untilSignal(cmd.Context())
			defer stop()
			ctx, cancel := context.WithTimeout(ctx, client.DefaultCreateLimit)
			defer cancel()
			return a.with(ctx, func(ctx context.Context, c *client.Client) error { return do(ctx, c, given) })
		},
	}
}

// untilSignal returns a context that the first signal ends.
func (a *app) untilSignal(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-a.term.signals:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(); <-done }
}

func (a *app) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(a.term.out, format, args...)
	return err
}

// printMessage prints an answer as JSON.
func (a *app) printMessage(m proto.Message) error {
	b, err := protojson.MarshalOptions{Multiline: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	return a.printf("%s\n", b)
}
