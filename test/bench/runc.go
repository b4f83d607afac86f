// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// runcRunner is the peer: every step is a runc command, as a shim runs it.
type runcRunner struct {
	root, dir string
	ipc, uts  string // namespaces to join, those of our sandbox
}

// bundle writes the specification that our agent gets, for runc.
func (r *runcRunner) bundle(id string, args ...string) (string, error) {
	req, err := (&agentRunner{root: r.root}).request(id, args...)
	if err != nil {
		return "", err
	}
	spec, err := runcSpec(req.OCI, r.ipc, r.uts)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(r.dir, id)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600)
}

// runc runs one command. Output goes nowhere, as the processes write none, and
// a pipe would be held open by the container.
func (r *runcRunner) runc(ctx context.Context, args ...string) error {
	log := filepath.Join(r.dir, "log")
	err := command(ctx, "runc", append([]string{"--root", filepath.Join(r.dir, "state"), "--log", log}, args...)...).Run()
	if err == nil {
		return nil
	}
	text, readErr := os.ReadFile(log)
	return errors.Join(fmt.Errorf("runc %s: %w: %s", args[0], err, text), readErr)
}

// live measures two containers: one by create and start, one by run, since
// runc has no command that waits for a created one.
func (r *runcRunner) live(ctx context.Context, id string) (life, error) {
	bundle, err := r.bundle(id, "/bin/true")
	if err != nil {
		return life{}, err
	}
	var l life
	start := time.Now()
	if err := r.runc(ctx, "create", "--bundle", bundle, id); err != nil {
		return l, err
	}
	if err := r.runc(ctx, "start", id); err != nil {
		return l, err
	}
	l.start = time.Since(start)
	if err := r.runc(ctx, "delete", "--force", id); err != nil {
		return l, err
	}
	start = time.Now()
	err = r.runc(ctx, "run", "--bundle", bundle, id)
	l.whole = time.Since(start)
	return l, err
}

func (r *runcRunner) hold(ctx context.Context, id string) (func(context.Context) error, error) {
	bundle, err := r.bundle(id, "/bin/sleep", "3600")
	if err != nil {
		return nil, err
	}
	remove := func(ctx context.Context) error { return r.runc(ctx, "delete", "--force", id) }
	return remove, r.runc(ctx, "run", "--detach", "--bundle", bundle, id)
}

func (r *runcRunner) exec(ctx context.Context, id, _ string) (time.Duration, error) {
	start := time.Now()
	err := r.runc(ctx, "exec", id, "/bin/true")
	return time.Since(start), err
}
