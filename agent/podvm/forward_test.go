// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package podvm

import (
	"context"
	"crypto/tls"
	"errors"
	"testing"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"cocoon/internal/wire/agentpb"
)

// recorder keeps what reaches the agent. Its other methods are never called.
type recorder struct {
	agentpb.AgentServiceService
	seen chan *agentpb.CreateContainerRequest
}

func (r recorder) CreateContainer(_ context.Context, req *agentpb.CreateContainerRequest) (*emptypb.Empty, error) {
	r.seen <- req
	return &emptypb.Empty{}, nil
}

func TestAnAdaptedRequestArrivesThroughMutualTLS(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	l, err := Listen(t.Context(), ListenConfig{Addr: "127.0.0.1:0", APF: p.apf})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(Rewriter{}.Intercept))
	if err != nil {
		t.Fatal(err)
	}
	agent := recorder{seen: make(chan *agentpb.CreateContainerRequest, 1)}
	agentpb.RegisterAgentServiceService(srv, agent)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(context.Background(), l) }()
	d := &tls.Dialer{Config: p.clientConfig(p.client.tls)}
	conn, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	client := agentpb.NewAgentServiceClient(c)
	if _, err := client.CreateContainer(t.Context(), namespaces()); err != nil {
		t.Errorf("good request: %v", err)
	} else if ns := (<-agent.seen).OCI.Linux.Namespaces; len(ns) != 3 || ns[2].Path != DefaultNetNS {
		t.Errorf("namespaces %v", ns)
	}
	if _, err := client.CreateContainer(t.Context(), namespaces("/proc/1/ns/net")); status.Code(err) != codes.InvalidArgument {
		t.Errorf("bad request: got %v", err)
	}
	if err := errors.Join(c.Close(), c.UserOnCloseWait(t.Context()), srv.Shutdown(t.Context())); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := <-done; !errors.Is(err, ttrpc.ErrServerClosed) {
		t.Errorf("serve: %v", err)
	}
}
