// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"cocoon/agent/device"
	"cocoon/agent/metrics"
	"cocoon/agent/netconf"
	"cocoon/agent/runtime"
	"cocoon/agent/storage"
	"cocoon/internal/wire/agentpb"
)

// apiVersion is the version of the protocol, as upstream's agent reports it.
const apiVersion = "0.0.1"

// Policy decides which requests are carried out. The agent has no way around
// it.
type Policy interface {
	// Intercept is a ttrpc.UnaryServerInterceptor that stands directly before
	// the handlers.
	Intercept(context.Context, ttrpc.Unmarshaler, *ttrpc.UnaryServerInfo, ttrpc.Method) (any, error)
	// SetPolicy replaces the policy. The request has been allowed by then.
	SetPolicy(ctx context.Context, text string) error
	// UncheckedLayers says whether the policy in force lets a container's root
	// have layers that nothing checks.
	UncheckedLayers(context.Context) (bool, error)
}

// Unsealer opens sealed secrets.
type Unsealer interface {
	// UnsealSecret returns the plain text of a secret that begins "sealed.".
	// Errors carry a stage and no part of the secret.
	UnsealSecret(ctx context.Context, sealed []byte) ([]byte, error)
}

// Puller fetches, verifies and mounts images.
type Puller = storage.Puller

// PullRequest asks for the root file system of one container.
type PullRequest = storage.PullRequest

// PullResult says what was pulled.
type PullResult = storage.PullResult

// Deps is what an Agent is made of.
type Deps struct {
	// Version is the agent's version as shims log it, "4.1.0" for example.
	Version string
	// Runtime runs containers.
	Runtime *runtime.Runtime
	// Policy is asked about every request. It must not be nil.
	Policy Policy
	// Puller may be nil; a container with an image then fails.
	Puller Puller
	// Unsealer may be nil; a container with a sealed secret then fails.
	Unsealer Unsealer
	// Prepare, unless nil, is called with each CreateContainer request that the
	// policy has allowed, before anything is made for it. Peer pods make the
	// missing sources of bind mounts there.
	Prepare func(*agentpb.CreateContainerRequest) error
	// SetTime sets the clock; the kernel's settimeofday(2) if nil.
	SetTime func(*unix.Timeval) error
	// Devices finds what the host plugs in; nil means the guest's own devices,
	// waited for as long as shims expect.
	Devices *device.Finder
	// CDI says where devices are described that annotations ask for.
	CDI CDI
	// SecureMount encrypts disks; nil means that storages which ask for it fail.
	SecureMount storage.SecureMounter
	// TrustStore puts the image store on the disk at the path of a node,
	// encrypted; nil means that a container which asks for it fails.
	TrustStore func(ctx context.Context, disk string) error
	// Network is configured as the host asks; nil means the process's own.
	Network *netconf.Network
	// Paths is where files are; the zero value means DefaultPaths.
	Paths Paths
	// SupportsSeccomp says whether the runtime was built with libseccomp.
	SupportsSeccomp bool
	// Log is readable by the host: it gets no request content.
	Log *slog.Logger
}

// Agent serves one sandbox. Its methods are safe for concurrent use.
type Agent struct {
	log     *slog.Logger
	policy  Policy
	sandbox *sandbox
	service *service
	calls   atomic.Int64 // in flight
	servers serverCount
}

// New makes an agent without a sandbox. It does not touch the system.
func New(d Deps) (*Agent, error) {
	if d.Paths == (Paths{}) {
		d.Paths = DefaultPaths()
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.SetTime == nil {
		d.SetTime = unix.Settimeofday
	}
	switch {
	case d.Version == "":
		return nil, errors.New("new agent: no version")
	case d.Runtime == nil:
		return nil, errors.New("new agent: no runtime")
	case d.Policy == nil:
		return nil, errors.New("new agent: no policy")
	}
	if err := d.Paths.check(); err != nil {
		return nil, fmt.Errorf("new agent: %w", err)
	}
	if d.Devices == nil {
		d.Devices = device.New(device.Config{Sys: d.Paths.Sys})
	}
	if d.Network == nil {
		own, err := netconf.New(netconf.Config{Devices: d.Devices, HotplugTimeout: d.Devices.Timeout(), Log: d.Log})
		if err != nil {
			return nil, fmt.Errorf("new agent: %w", err)
		}
		d.Network = own
	}
	s := newSandbox(d)
	a := &Agent{
		log:     d.Log,
		policy:  d.Policy,
		sandbox: s,
		service: &service{deps: d, sandbox: s, metrics: metrics.New(metrics.Config{Log: d.Log}), looks: newLooks()},
		servers: serverCount{done: make(chan struct{})},
	}
	s.onDestroyed = a.servers.finish
	return a, nil
}

// NewServer returns a ttrpc server with both services behind the agent's whole
// chain of interceptors. before are further ones that run ahead of the policy
// and may change requests, as the peer-pod forwarder does; the policy judges
// what they made of them. There is no way to register the services without the
// policy.
func (a *Agent) NewServer(before ...ttrpc.UnaryServerInterceptor) (*ttrpc.Server, error) {
	srv, err := ttrpc.NewServer(ttrpc.WithChainUnaryServerInterceptor(a.interceptors(before)...))
	if err != nil {
		return nil, fmt.Errorf("make ttrpc server: %w", err)
	}
	agentpb.RegisterAgentServiceService(srv, a.service)
	agentpb.RegisterHealthService(srv, health{version: a.service.deps.Version})
	return srv, nil
}

// Drain starts to discard what a process writes to a stream that the policy
// keeps from the host, so that the process does not block on a full pipe. It
// returns at once and may be repeated. A stream that is not known is ignored:
// the host may have named it wrongly.
func (a *Agent) Drain(containerID, execID string, stderr bool) {
	a.sandbox.drain(containerID, execID, stderr)
}

// Done is closed when the sandbox is destroyed and every Serve has ended; the
// guest can be powered off then.
func (a *Agent) Done() <-chan struct{} { return a.servers.done }

// Close destroys the sandbox as DestroySandbox does, for a process that ends
// without having been asked by the host. It is safe to call at any time.
func (a *Agent) Close(ctx context.Context) error {
	err := a.sandbox.destroy(ctx)
	if errors.Is(err, ErrDestroyed) {
		return nil
	}
	return err
}

// service implements agentpb.AgentServiceService. Its methods are in the files
// of what they deal with.
type service struct {
	unimplemented
	deps    Deps
	sandbox *sandbox
	metrics *metrics.Collector
	looks   *looks
}

var _ agentpb.AgentServiceService = (*service)(nil)
