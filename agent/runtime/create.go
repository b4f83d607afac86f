// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // device rules of containers
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// CreateRequest says what to run.
type CreateRequest struct {
	// ID names the container and its state directory. At least two of
	// [a-zA-Z0-9_.-], the first a letter or digit.
	ID string
	// Bundle is the absolute path of the OCI bundle; hooks are told it, and
	// relative sources of bind mounts are resolved against it.
	Bundle string
	// Spec is the specification. Spec.Root.Path is the mounted root file
	// system, absolute and without symbolic links. It is not changed.
	Spec *specs.Spec
}

// abortWait bounds the wait for a first process that is being killed because
// its creation was given up.
const abortWait = 10 * time.Second

// Create makes a container whose first process waits for Start. When it fails,
// or ctx ends first, nothing is left behind and the same id can be used again.
// A program that does not exist in the container is reported here, by an error
// that wraps ErrNotFound and reads "the file <name> was not found".
// Errors do not repeat the id, which the caller has.
func (r *Runtime) Create(ctx context.Context, req CreateRequest) (*Container, error) {
	if err := checkID(req.ID); err != nil {
		return nil, err
	}
	n, err := normalise(req, r.host)
	if err != nil {
		return nil, err
	}
	if err := checkNamespacePaths(n.spec.Linux.Namespaces); err != nil {
		return nil, err
	}
	lp, err := newProcess(n.spec.Process)
	if err != nil {
		return nil, err
	}
	c, cfg, err := r.prepare(req, n)
	if err != nil {
		return nil, err
	}
	skipped, err := applyNetSysctls(n.netNS, n.netSysctls)
	if err != nil {
		return nil, err
	}
	if len(skipped) > 0 {
		r.log.Warn("this kernel lacks network parameters", "container", req.ID, "names", skipped)
	}
	if c.lc, err = libcontainer.Create(r.stateDir, req.ID, cfg); err != nil {
		if errors.Is(err, libcontainer.ErrExist) {
			err = ErrExists
		}
		return nil, err
	}
	lp.Init = true
	if c.init, err = c.launch(ctx, launch{
		lp: lp, terminal: n.spec.Process.Terminal, settled: func() {},
	}); err != nil {
		return nil, errors.Join(explainStart(err, n.spec.Process.Args), c.scrap())
	}
	c.work.Go(func() { c.init.reap(c.endInit) })
	return c, nil
}

// prepare builds everything that leaves no trace on the system.
func (r *Runtime) prepare(req CreateRequest, n *normalised) (*Container, *configs.Config, error) {
	cfg, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName: req.ID, NoPivotRoot: r.host.noPivotRoot, Spec: n.spec,
	})
	if err != nil {
		return nil, nil, err
	}
	setBundle(cfg, req.Bundle)
	// libcontainer would run these before Start.
	after := cfg.Hooks[configs.Poststart]
	delete(cfg.Hooks, configs.Poststart)
	own := *cfg.Cgroups
	res := *cfg.Cgroups.Resources
	own.Resources = &res
	cg, err := manager.New(&own)
	if err != nil {
		return nil, nil, fmt.Errorf("prepare cgroup: %w", err)
	}
	return &Container{
		id:       req.ID,
		stateDir: filepath.Join(r.stateDir, req.ID),
		pipeSize: r.pipeSize, log: r.log, host: r.host,
		caps:  n.spec.Process.Capabilities,
		after: after, cg: cg, resources: *cfg.Cgroups.Resources,
		deletion: newGate(),
		procs:    map[string]*Process{},
	}, cfg, nil
}

// setBundle replaces the working directory, which is what libcontainer takes
// for the bundle.
func setBundle(cfg *configs.Config, bundle string) {
	cfg.Labels = slices.DeleteFunc(cfg.Labels, func(l string) bool { return strings.HasPrefix(l, "bundle=") })
	cfg.Labels = append(cfg.Labels, "bundle="+bundle)
}

// endInit runs while init is a zombie. Execs that go by init's pid must be
// through before another process can get the number.
func (c *Container) endInit() {
	c.mu.Lock()
	c.initEnded = true
	done := c.joining.done()
	c.mu.Unlock()
	<-done
}

// launch is a process about to be made.
type launch struct {
	execID   string // "" for init
	lp       *libcontainer.Process
	terminal bool
	// settled is called, at least once, when libcontainer is through with it.
	settled func()
}

// launch starts a process and connects its streams. When ctx ends first, a
// first process is killed with its cgroup before launch returns; any other is
// killed as soon as libcontainer lets go of it.
func (c *Container) launch(ctx context.Context, l launch) (*Process, error) {
	if err := ctx.Err(); err != nil {
		l.settled()
		return nil, err
	}
	io, err := newStdio(l.lp, l.terminal, c.pipeSize)
	if err != nil {
		l.settled()
		return nil, err
	}
	done := make(chan error, 1)
	c.work.Go(func() {
		defer l.settled()
		done <- c.start(l.lp)
	})
	select {
	case err = <-done:
	case <-ctx.Done():
		if !l.lp.Init {
			c.work.Go(func() { c.discard(<-done, l.lp, io) })
			return nil, ctx.Err()
		}
		err = c.abort(ctx, done, l.lp)
	}
	if err != nil {
		io.close()
		return nil, err
	}
	pid, err := l.lp.Pid()
	p := &Process{id: l.execID, pid: pid, lp: l.lp, done: make(chan struct{})}
	if err == nil {
		err = io.attach(p)
	}
	if err != nil {
		c.discard(nil, l.lp, io)
		return nil, err
	}
	return p, nil
}

// discard ends a process that nobody wants any more.
func (c *Container) discard(startErr error, lp *libcontainer.Process, io *stdio) {
	defer io.close()
	if startErr != nil {
		return // there is no process
	}
	if err := lp.Signal(unix.SIGKILL); err != nil {
		c.log.Warn("cannot kill an abandoned process", "container", c.id, "error", err)
	}
	if _, err := lp.Wait(); err != nil {
		c.log.Debug("abandoned process ended", "container", c.id, "status", err)
	}
}

// abort kills the cgroup until a start that is under way gives up.
func (c *Container) abort(ctx context.Context, done <-chan error, lp *libcontainer.Process) error {
	limit := time.NewTimer(abortWait)
	defer limit.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := c.killAll(); err != nil {
			c.log.Debug("kill of an aborted container", "container", c.id, "error", err)
		}
		select {
		case err := <-done:
			if err == nil {
				c.discard(nil, lp, &stdio{})
			}
			return ctx.Err()
		case <-limit.C:
			return fmt.Errorf("%w, and the first process cannot be killed", ctx.Err())
		case <-tick.C:
		}
	}
}

// scrap removes what a failed Create made.
func (c *Container) scrap() error {
	if err := c.killAll(); err != nil {
		c.log.Debug("kill of a failed container", "container", c.id, "error", err)
	}
	return c.lc.Destroy()
}

// cgroupGone tells whether the container's cgroup was removed.
func cgroupGone(cg cgroups.Manager) bool { return !cg.Exists() }
