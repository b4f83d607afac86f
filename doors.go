// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"strings"

	"cocoon/agent/podvm"
	"cocoon/attest"
	"cocoon/cdh/rest"
	"cocoon/internal/config"
)

// doors are the listeners of the guest role.
type doors struct {
	aa, cdh, rest, agent net.Listener
	log, console         net.Listener // nil unless the settings ask for them
}

// open opens all doors, the agent's last: a host that gets an answer there
// finds everything else in place. If one fails all are closed.
func (g *guest) open(ctx context.Context) (d doors, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if g.offers(config.AttestationAgent) {
		if d.aa, err = attest.Listen(g.socket(g.cfg.CDH.AASocket)); err != nil {
			return d, err
		}
	}
	if g.offers(config.ConfidentialDataHub) {
		if d.cdh, err = attest.Listen(g.socket(g.cfg.CDH.Socket)); err != nil {
			return d, err
		}
	}
	if g.offers(config.APIServerREST) {
		if d.rest, err = g.listenREST(ctx); err != nil {
			return d, err
		}
	}
	if d.log, d.console, err = g.listenForDebugging(ctx); err != nil {
		return d, err
	}
	if d.agent, err = g.listenForHost(ctx); err != nil {
		return d, err
	}
	return d, nil
}

// offers says whether a component's own door opens. The components themselves
// are parts of this process and always there, for the agent needs them. In a
// pod VM all are open: there upstream's agent starts none, since others do.
func (g *guest) offers(c config.Components) bool {
	return g.profile.podVM || g.cfg.Agent.Components >= c
}

// listenForDebugging listens where a shim reads the log and, in a profile that
// has one, where it finds a shell.
func (g *guest) listenForDebugging(ctx context.Context) (log, console net.Listener, err error) {
	listen := func(port uint32) (net.Listener, error) {
		if port == 0 {
			return nil, nil
		}
		return listenAgent(ctx, config.Address{Network: "vsock", CID: math.MaxUint32, Port: port})
	}
	a := g.cfg.Agent
	if log, err = listen(a.LogPort); err != nil {
		return nil, nil, fmt.Errorf("log stream: %w", err)
	}
	if a.DebugConsole && g.profile.console {
		if console, err = listen(a.DebugConsolePort); err != nil {
			err = errors.Join(fmt.Errorf("debug console: %w", err), doors{log: log}.close())
			return nil, nil, err
		}
	}
	return log, console, nil
}

func (d doors) close() error {
	var errs []error
	for _, l := range []net.Listener{d.aa, d.cdh, d.rest, d.agent, d.log, d.console} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}

// listenREST listens where the pod's containers find the REST API.
func (g *guest) listenREST(ctx context.Context) (net.Listener, error) {
	addr := rest.DefaultAddress
	if g.opt.rest != "" {
		addr = g.opt.rest
	}
	netNS := ""
	if g.inputs.pod != nil {
		netNS = g.inputs.pod.netNS
	}
	l, err := podvm.ListenIn(ctx, netNS, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("REST API: %w", err)
	}
	return l, nil
}

// listenForHost listens where the host connects: by TLS in a pod VM.
func (g *guest) listenForHost(ctx context.Context) (net.Listener, error) {
	if g.inputs.pod != nil {
		return podvm.Listen(ctx, podvm.ListenConfig{APF: g.inputs.pod.apf, Log: g.log})
	}
	return listenAgent(ctx, g.cfg.Agent.ServerAddr)
}

// socket puts a socket address below the directory that --root names.
func (g *guest) socket(addr string) string {
	return "unix://" + g.path(strings.TrimPrefix(addr, "unix://"))
}
