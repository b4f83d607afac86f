// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/containerd/ttrpc"

	"cocoon/internal/wire/agentpb"
)

const (
	dialLimit = 30 * time.Second
	// callLimit bounds every call that does not wait for a process; shims use
	// the same.
	callLimit = 60 * time.Second
)

// Client is a connection to an agent. The embedded service has every call of
// the agent as it is on the wire; calls may be made concurrently.
type Client struct {
	agentpb.AgentServiceService
	health agentpb.HealthService
	rpc    *ttrpc.Client
}

// Dial connects to the agent at a. A nil cfg means no TLS; TLS is for tcp
// only, where the host name is checked against the guest's certificate unless
// cfg names another.
func Dial(ctx context.Context, a Address, cfg *tls.Config) (*Client, error) {
	if cfg != nil && a.Network != "tcp" {
		return nil, fmt.Errorf("TLS is not used over %s", a.Network)
	}
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	conn, err := a.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the agent: %w", err)
	}
	if cfg != nil {
		if conn, err = handshake(ctx, conn, a, cfg); err != nil {
			return nil, err
		}
	}
	return New(conn), nil
}

func handshake(ctx context.Context, conn net.Conn, a Address, cfg *tls.Config) (net.Conn, error) {
	if cfg.ServerName == "" {
		host, _, err := net.SplitHostPort(a.Host)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("host of %q: %w", a.Host, err), conn.Close())
		}
		cfg = cfg.Clone()
		cfg.ServerName = host
	}
	c := tls.Client(conn, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("TLS with the agent: %w", err), conn.Close())
	}
	return c, nil
}

// New returns a client on an established connection, which it takes over.
func New(conn net.Conn) *Client {
	rpc := ttrpc.NewClient(conn)
	return &Client{
		AgentServiceService: agentpb.NewAgentServiceClient(rpc),
		health:              agentpb.NewHealthClient(rpc),
		rpc:                 rpc,
	}
}

// Close ends the connection. Calls at work fail.
func (c *Client) Close() error { return c.rpc.Close() }

// Check asks whether the agent serves requests.
func (c *Client) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	r, err := c.health.Check(ctx, &agentpb.CheckRequest{})
	if err != nil {
		return fmt.Errorf("check the agent: %w", err)
	}
	if s := r.GetStatus(); s != agentpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("the agent answers %s", s)
	}
	return nil
}

// Version returns the version of the agent's protocol and of the agent.
func (c *Client) Version(ctx context.Context) (protocol, agent string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	r, err := c.health.Version(ctx, &agentpb.CheckRequest{})
	if err != nil {
		return "", "", fmt.Errorf("ask for the version: %w", err)
	}
	return r.GetGrpcVersion(), r.GetAgentVersion(), nil
}

// CreateSandbox creates the sandbox with the storage for shared memory that a
// shim always asks for. Lines of dns are those of a resolv.conf.
func (c *Client) CreateSandbox(ctx context.Context, id string, dns ...string) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err := c.AgentServiceService.CreateSandbox(ctx, SandboxRequest(id, dns...))
	if err != nil {
		return fmt.Errorf("create sandbox %q: %w", id, err)
	}
	return nil
}

// DestroySandbox ends every container and then the agent.
func (c *Client) DestroySandbox(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if _, err := c.AgentServiceService.DestroySandbox(ctx, &agentpb.DestroySandboxRequest{}); err != nil {
		return fmt.Errorf("destroy sandbox: %w", err)
	}
	return nil
}

// SetPolicy replaces the agent's policy, if the one in force allows it.
func (c *Client) SetPolicy(ctx context.Context, text string) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if _, err := c.AgentServiceService.SetPolicy(ctx, &agentpb.SetPolicyRequest{Policy: text}); err != nil {
		return fmt.Errorf("set policy: %w", err)
	}
	return nil
}
