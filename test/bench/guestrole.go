// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"cocoon/agent/agentctl/client"
	"cocoon/agent/policy"
	"cocoon/internal/wire/agentpb"
)

// guestRole is the guest binary as an ordinary process, with a sandbox.
type guestRole struct {
	root  string
	agent *client.Client
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
	err   error         // how, valid after ended
}

// guestStart and guestStop bound the start and the end of the process.
const (
	guestStart = 20 * time.Second
	guestStop  = 20 * time.Second
)

// errEnded ends the wait for a process that will never serve.
var errEnded = errors.New("the process has ended")

// startGuestRole starts the binary below dir with a policy that allows all,
// and has it create a sandbox.
func startGuestRole(ctx context.Context, binary, dir string) (*guestRole, error) {
	// Its sockets lie deep below the root, and their paths must be short.
	g := &guestRole{root: dir, ended: make(chan struct{})}
	if err := os.MkdirAll(g.root, 0o755); err != nil {
		return nil, err
	}
	rego := filepath.Join(dir, "policy.rego")
	if err := os.WriteFile(rego, []byte(policy.AllowAll()), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "agent.sock")
	g.cmd = command(ctx, binary, "guest", "--root", g.root, "--agent-listen", "unix://"+socket, "--policy", rego, "--tee", "sample")
	g.cmd.Stdout, g.cmd.Stderr = log, log
	err = g.cmd.Start()
	if err := errors.Join(err, log.Close()); err != nil {
		return nil, fmt.Errorf("start the guest role: %w", err)
	}
	go func() {
		defer close(g.ended)
		g.err = g.cmd.Wait()
	}()
	if err := g.connect(ctx, socket); err != nil {
		g.kill()
		text, readErr := os.ReadFile(log.Name())
		return nil, errors.Join(fmt.Errorf("guest role: %w\n%s", err, text), readErr)
	}
	return g, nil
}

func (g *guestRole) connect(ctx context.Context, socket string) error {
	err := poll(ctx, guestStart, func(ctx context.Context) error {
		select {
		case <-g.ended:
			return errEnded
		default:
		}
		c, err := client.Dial(ctx, client.Address{Network: "unix", Path: socket}, nil)
		if err == nil {
			g.agent = c
		}
		return err
	})
	if err != nil {
		return err
	}
	_, err = g.agent.AgentServiceService.CreateSandbox(ctx, &agentpb.CreateSandboxRequest{SandboxId: "bench", Hostname: "bench"})
	return err
}

// namespace is the file of a namespace that all containers of the sandbox
// share: "ipc" or "uts".
func (g *guestRole) namespace(kind string) string {
	return filepath.Join(g.root, "var/run/sandbox-ns", kind)
}

// stop destroys the sandbox, which ends the process.
func (g *guestRole) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), guestStop)
	defer cancel()
	err := g.agent.DestroySandbox(ctx)
	if err == nil {
		select {
		case <-g.ended:
			err = g.err
		case <-ctx.Done():
			err = errors.New("the guest role does not end")
		}
	}
	g.kill()
	return errors.Join(err, g.agent.Close())
}

// kill ends the process if it still runs, and waits for it.
func (g *guestRole) kill() {
	// The only error is that the process has ended, which is what is wanted.
	_ = g.cmd.Process.Kill()
	<-g.ended
}
