// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"cocoon/internal/wire/agentpb"
)

// loaded returns an engine with text in force.
func loaded(t testing.TB, cfg Config, text string) *Engine {
	t.Helper()
	e := New(cfg)
	if err := e.Load(t.Context(), text); err != nil {
		t.Fatalf("load policy: %v", err)
	}
	return e
}

func genpolicy(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("testdata/genpolicy.rego")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// ask sends req through the interceptor to handler; a nil handler succeeds.
func ask(ctx context.Context, e *Engine, method string, req proto.Message, handler func() error) (any, error) {
	raw, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	decode := func(into any) error { return proto.Unmarshal(raw, into.(proto.Message)) }
	next := func(_ context.Context, decode func(any) error) (any, error) {
		into := req.ProtoReflect().New().Interface()
		if err := decode(into); err != nil {
			return nil, err
		}
		if handler == nil {
			return into, nil
		}
		return into, handler()
	}
	return e.Intercept(ctx, decode, &ttrpc.UnaryServerInfo{FullMethod: "/grpc.AgentService/" + method}, next)
}

func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Fatalf("got code %v (%v), want %v", got, err, want)
	}
}

// state returns the state document in force.
func state(t *testing.T, e *Engine) string {
	t.Helper()
	if err := e.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer e.unlock()
	return string(e.active.doc.raw)
}

func fromJSON[M proto.Message](t testing.TB, m M, text string) M {
	t.Helper()
	if err := protojson.Unmarshal([]byte(text), m); err != nil {
		t.Fatalf("read request: %v", err)
	}
	return m
}

// appContainer is a request that the first container of testdata/genpolicy.rego
// matches.
func appContainer(t testing.TB, id string) *agentpb.CreateContainerRequest {
	return fromJSON(t, &agentpb.CreateContainerRequest{}, `{
		"containerId": "`+id+`", "execId": "`+id+`",
		"storages": [{"driver": "image_guest_pull", "source": "registry.example/app:1", "fstype": "overlay",
			"mountPoint": "/run/kata-containers/`+id+`/rootfs"}],
		"OCI": {
			"Process": {"Args": ["/bin/sh", "-c", "echo hi"], "Env": ["PATH=/bin", "HOST_token=hunter22"], "NoNewPrivileges": true},
			"Mounts": [{"destination": "/proc", "source": "proc", "type": "proc"},
				{"destination": "/dev/shm", "source": "/run/kata-containers/sandbox/shm", "type": "bind"}],
			"Annotations": {"io.kubernetes.cri.sandbox-name": "pod1"}}}`)
}

func serverContainer(t testing.TB, id string) *agentpb.CreateContainerRequest {
	r := appContainer(t, id)
	r.Storages[0].Source = "registry.example/server:2"
	r.OCI.Process.Args = []string{"/server"}
	r.OCI.Process.Env = nil
	return r
}

// served starts a ttrpc server with e as interceptor and returns a client.
func served(t *testing.T, e *Engine, svc agentpb.AgentServiceService) *ttrpc.Client {
	t.Helper()
	srv, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(e.Intercept))
	if err != nil {
		t.Fatal(err)
	}
	agentpb.RegisterAgentServiceService(srv, svc)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(context.WithoutCancel(t.Context()), l) }()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	t.Cleanup(func() {
		_ = c.Close()   // the server's end is what matters here
		_ = srv.Close() // closes the listener; Serve's result says how it ended
		if err := <-done; err != nil && !errors.Is(err, ttrpc.ErrServerClosed) {
			t.Errorf("server ended with %v", err)
		}
	})
	return c
}

// ownerLog returns a JSON logger and what it wrote.
func ownerLog() (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(slog.NewJSONHandler(&b, nil)), &b
}

// newMessage returns an empty message of the generated type of d.
func newMessage(t testing.TB, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return mt.New().Interface()
}
