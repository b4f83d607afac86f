// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"cocoon/agent/agentctl/client"
	"cocoon/internal/wire/agentpb"
)

// life is how long the steps of a container took that does nothing.
type life struct {
	start time.Duration // create and start
	whole time.Duration // and wait for its end and delete
}

// runner starts containers and processes; both sides are one.
type runner interface {
	// live takes a container through its whole life.
	live(ctx context.Context, id string) (life, error)
	// hold starts the container in which exec runs, and returns its removal.
	hold(ctx context.Context, id string) (func(context.Context) error, error)
	// exec runs a further process in a container to its end.
	exec(ctx context.Context, id, execID string) (time.Duration, error)
}

// measureContainers compares our whole agent, over its socket and through its
// policy, with runc on the same root file system.
func (b *bench) measureContainers(ctx context.Context) error {
	g, err := startGuestRole(ctx, b.guestBinary(), filepath.Join(b.dir, "guest"))
	if err != nil {
		return err
	}
	// The agent mounts from its own directory only.
	root := filepath.Join(g.root, "run/kata-containers/bench-root")
	ours := &agentRunner{agent: g.agent, root: root}
	peer := &runcRunner{root: root, dir: filepath.Join(b.dir, "runc"), ipc: g.namespace("ipc"), uts: g.namespace("uts")}
	err = errors.Join(busyboxRoot(root), os.Mkdir(peer.dir, 0o755))
	if err == nil {
		err = b.compareLives(ctx, ours, peer)
	}
	if err == nil {
		err = b.compareExecs(ctx, ours, peer)
	}
	return errors.Join(err, g.stop(ctx))
}

func (b *bench) compareLives(ctx context.Context, ours, peer runner) error {
	var starts, wholes [2][]time.Duration
	for i := range b.opt.rounds + 1 {
		for side, r := range []runner{ours, peer} {
			l, err := r.live(ctx, fmt.Sprintf("bench-%d-%d", side, i))
			if err != nil {
				return err
			}
			if i == 0 {
				continue // the first fills caches
			}
			starts[side] = append(starts[side], l.start)
			wholes[side] = append(wholes[side], l.whole)
		}
	}
	b.say("%d containers on each side", b.opt.rounds)
	b.add(row{Group: "container", Name: "create+start", Unit: "ms", Ours: medianMillis(starts[0])}.
		beside("runc create+start", medianMillis(starts[1])).atMostTimes(1.2))
	b.add(row{Group: "container", Name: "create, start, wait, delete", Unit: "ms", Ours: medianMillis(wholes[0])}.
		beside("runc run", medianMillis(wholes[1])))
	return nil
}

func (b *bench) compareExecs(ctx context.Context, ours, peer runner) (err error) {
	const id = "bench-hold"
	var took [2][]time.Duration
	for side, r := range []runner{ours, peer} {
		id := fmt.Sprintf("%s-%d", id, side)
		remove, err := r.hold(ctx, id)
		if err != nil {
			return err
		}
		defer func() {
			if rmErr := remove(context.WithoutCancel(ctx)); err == nil {
				err = rmErr
			}
		}()
	}
	for i := range b.opt.rounds + 1 {
		for side, r := range []runner{ours, peer} {
			d, err := r.exec(ctx, fmt.Sprintf("%s-%d", id, side), fmt.Sprintf("exec-%d", i))
			if err != nil {
				return err
			}
			if i > 0 {
				took[side] = append(took[side], d)
			}
		}
	}
	b.add(row{Group: "container", Name: "exec, to the end of the process", Unit: "ms", Ours: medianMillis(took[0])}.
		beside("runc exec", medianMillis(took[1])))
	return nil
}

// agentRunner is our side: every step is a call over ttrpc.
type agentRunner struct {
	agent *client.Client
	root  string
}

// request is the one of a shim, but with a root that is there already.
func (a *agentRunner) request(id string, args ...string) (*agentpb.CreateContainerRequest, error) {
	req, err := client.Container{ID: id, Image: "unused", Args: args}.Request()
	if err != nil {
		return nil, err
	}
	req.Storages = nil
	req.OCI = containerSpec(req.OCI, a.root, id)
	return req, nil
}

func (a *agentRunner) live(ctx context.Context, id string) (life, error) {
	req, err := a.request(id, "/bin/true")
	if err != nil {
		return life{}, err
	}
	var l life
	start := time.Now()
	if _, err := a.agent.CreateContainer(ctx, req); err != nil {
		return l, fmt.Errorf("create container: %w", err)
	}
	if err := a.agent.Start(ctx, id); err != nil {
		return l, err
	}
	l.start = time.Since(start)
	if err := a.wait(ctx, id, ""); err != nil {
		return l, err
	}
	err = a.agent.Remove(ctx, id)
	l.whole = time.Since(start)
	return l, err
}

func (a *agentRunner) wait(ctx context.Context, id, execID string) error {
	r, err := a.agent.WaitProcess(ctx, &agentpb.WaitProcessRequest{ContainerId: id, ExecId: execID})
	if err != nil {
		return fmt.Errorf("wait for %q: %w", id, err)
	}
	if r.GetStatus() != 0 {
		return fmt.Errorf("process of %q ended with status %d", id, r.GetStatus())
	}
	return nil
}

func (a *agentRunner) hold(ctx context.Context, id string) (func(context.Context) error, error) {
	req, err := a.request(id, "/bin/sleep", "3600")
	if err != nil {
		return nil, err
	}
	if _, err := a.agent.CreateContainer(ctx, req); err != nil {
		return nil, fmt.Errorf("create container: %w", err)
	}
	return func(ctx context.Context) error { return a.agent.Remove(ctx, id) }, a.agent.Start(ctx, id)
}

func (a *agentRunner) exec(ctx context.Context, id, execID string) (time.Duration, error) {
	start := time.Now()
	_, err := a.agent.ExecProcess(ctx, &agentpb.ExecProcessRequest{ContainerId: id, ExecId: execID, Process: &agentpb.Process{
		User: &agentpb.User{}, Args: []string{"/bin/true"}, Env: []string{"PATH=/bin"}, Cwd: "/",
	}})
	if err != nil {
		return 0, fmt.Errorf("exec in %q: %w", id, err)
	}
	err = a.wait(ctx, id, execID)
	return time.Since(start), err
}
