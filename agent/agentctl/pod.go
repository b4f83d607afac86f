// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cocoon/agent/agentctl/client"
	"cocoon/internal/bounded"
)

func (a *app) sandboxCommand() *cobra.Command {
	var dns []string
	create := a.simple("create ID", "Make the sandbox", cobra.ExactArgs(1), func(ctx context.Context, c *client.Client, args []string) error {
		return c.CreateSandbox(ctx, args[0], dns...)
	})
	create.Flags().StringArrayVar(&dns, "dns", nil, "`line` of resolv.conf; may be repeated")
	return group("sandbox", "Make or destroy the sandbox", create,
		a.simple("destroy", "Destroy the sandbox; a guest powers off then", cobra.NoArgs, func(ctx context.Context, c *client.Client, _ []string) error {
			return c.DestroySandbox(ctx)
		}))
}

func (a *app) containerCommand() *cobra.Command {
	var k client.Container
	create := a.simple("create IMAGE -- COMMAND...", "Create a container without starting it", cobra.MinimumNArgs(1), func(ctx context.Context, c *client.Client, args []string) error {
		if err := complete(&k, args); err != nil {
			return err
		}
		if err := c.Create(ctx, k, 0); err != nil {
			return err
		}
		return a.printf("%s\n", k.ID)
	})
	containerFlags(create, &k)
	return group("container", "Create, start or remove a container", create,
		a.simple("start ID", "Start a created container", cobra.ExactArgs(1), func(ctx context.Context, c *client.Client, args []string) error {
			return c.Start(ctx, args[0])
		}),
		a.simple("rm ID", "Kill what is left of a container and remove it", cobra.ExactArgs(1), func(ctx context.Context, c *client.Client, args []string) error {
			return c.Remove(ctx, args[0])
		}))
}

func containerFlags(cmd *cobra.Command, k *client.Container) {
	f := cmd.Flags()
	f.StringVar(&k.ID, "name", "", "`id` of the container; made up if empty")
	f.StringArrayVarP(&k.Env, "env", "e", nil, "`KEY=value` for the environment; may be repeated")
	f.StringVar(&k.Cwd, "cwd", "/", "working `directory`")
	f.BoolVarP(&k.TTY, "tty", "t", false, "give the process a terminal")
	f.StringVar(&k.Kind, "kind", client.Single, "`kind`: single_container, pod_sandbox or pod_container")
	f.StringVar(&k.SandboxID, "sandbox", "", "`id` of the pod's sandbox")
}

// complete fills in the image, the command and an id, and refuses what the
// guest would refuse after a while.
func complete(k *client.Container, args []string) error {
	k.Image, k.Args = args[0], args[1:]
	if k.ID == "" {
		k.ID = newID()
	}
	for _, e := range k.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return usageError{fmt.Errorf("--env %q is not KEY=value", e)}
		}
	}
	if _, err := k.Request(); err != nil {
		return usageError{err}
	}
	return nil
}

func (a *app) copyCommand() *cobra.Command {
	cmd := a.simple("copy SOURCE GUESTPATH", "Copy a file or folder into the guest", cobra.ExactArgs(2), func(ctx context.Context, c *client.Client, args []string) error {
		return c.Copy(ctx, args[0], args[1])
	})
	cmd.Example = "  agentctl copy resolv.conf /run/kata-containers/shared/containers/resolv.conf"
	return cmd
}

func (a *app) policyCommand() *cobra.Command {
	return group("policy", "Replace the agent's policy", a.simple("set FILE", "Replace the policy, if the one in force allows it", cobra.ExactArgs(1), func(ctx context.Context, c *client.Client, args []string) error {
		text, err := readPolicy(args[0])
		if err != nil {
			return fmt.Errorf("read policy: %w", err)
		}
		return c.SetPolicy(ctx, text)
	}))
}

// maxPolicy is what fits in one frame of the protocol, with its header.
const maxPolicy = 4<<20 - 1024

func readPolicy(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	text, err := bounded.ReadAll(f, maxPolicy)
	return string(text), errors.Join(err, f.Close())
}

// errReplay is returned when an answer of a replay was not a success.
var errReplay = errors.New("some requests failed")

func (a *app) replayCommand() *cobra.Command {
	grace := 5 * time.Second
	cmd := a.simple("replay FILE", "Send recorded requests in order and print each answer", cobra.ExactArgs(1), func(ctx context.Context, c *client.Client, args []string) (err error) {
		f, err := os.Open(args[0])
		if err != nil {
			return fmt.Errorf("open recording: %w", err)
		}
		calls, err := client.ReadRecording(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		failed := false
		c.Replay(ctx, calls, grace, func(n client.Answer) {
			said := "ok"
			if n.Err != nil {
				failed, said = true, n.Err.Error()
			}
			err = errors.Join(err, a.printf("%3d %-40s %s\n", n.Number, n.Method, said))
		})
		if failed {
			err = errors.Join(err, errReplay)
		}
		return err
	})
	cmd.Flags().DurationVar(&grace, "grace", grace, "how long to wait for calls that wait for events")
	return cmd
}
