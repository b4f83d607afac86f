// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
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
}

// open opens all doors, the agent's last: a host that gets an answer there
// finds everything else in place. If one fails all are closed.
func (g *guest) open(ctx context.Context) (d doors, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if d.aa, err = attest.Listen(g.socket(g.cfg.CDH.AASocket)); err != nil {
		return d, err
	}
	if d.cdh, err = attest.Listen(g.socket(g.cfg.CDH.Socket)); err != nil {
		return d, err
	}
	if d.rest, err = g.listenREST(ctx); err != nil {
		return d, err
	}
	if d.agent, err = g.listenForHost(ctx); err != nil {
		return d, err
	}
	return d, nil
}

func (d doors) close() error {
	var errs []error
	for _, l := range []net.Listener{d.aa, d.cdh, d.rest, d.agent} {
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
	addr := g.cfg.Agent.ServerAddr
	if g.opt.listen != "" {
		var err error
		if addr, err = config.ParseAddress(g.opt.listen); err != nil {
			return nil, err
		}
	}
	return listenAgent(ctx, addr)
}

// socket puts a socket address below the directory that --root names.
func (g *guest) socket(addr string) string {
	return "unix://" + g.path(strings.TrimPrefix(addr, "unix://"))
}
