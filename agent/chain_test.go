// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cocoon/internal/wire/agentpb"
)

// syncBuffer is a log that many goroutines write.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// served lists the methods that this agent does; every other one of the
// generated interface has to answer UNIMPLEMENTED.
var served = map[string]bool{
	"CreateSandbox": true, "DestroySandbox": true, "CreateContainer": true, "StartContainer": true, "RemoveContainer": true,
	"ExecProcess": true, "SignalProcess": true, "WaitProcess": true, "UpdateContainer": true, "UpdateEphemeralMounts": true,
	"StatsContainer": true, "PauseContainer": true, "ResumeContainer": true, "RemoveStaleVirtiofsShareMounts": true,
	"GetDiagnosticData": true, "WriteStdin": true, "ReadStdout": true, "ReadStderr": true, "CloseStdin": true, "TtyWinResize": true,
	"ReseedRandomDev": true, "GetGuestDetails": true, "CopyFile": true, "GetOOMEvent": true, "SetPolicy": true,
	"UpdateInterface": true, "UpdateRoutes": true, "ListInterfaces": true, "ListRoutes": true, "AddARPNeighbors": true,
	"GetIPTables": true, "SetIPTables": true,
	"GetMetrics": true, "OnlineCPUMem": true, "MemHotplugByProbe": true, "SetGuestDateTime": true, "GetVolumeStats": true,
}

func TestEveryMethodIsServedOrUnimplemented(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	methods := reflect.TypeFor[agentpb.AgentServiceService]()
	if methods.NumMethod() != 42 {
		t.Errorf("the protocol has %d methods, this test knows 42", methods.NumMethod())
	}
	seen := 0
	for m := range methods.Methods() {
		req := reflect.New(m.Type.In(1).Elem()).Interface()
		if served[m.Name] {
			seen++
			if m.Name != "DestroySandbox" && m.Name != "GetOOMEvent" {
				err := g.client.Call(limited(t), "grpc.AgentService", m.Name, req, reflect.New(m.Type.Out(0).Elem()).Interface())
				if status.Code(err) == codes.Unimplemented {
					t.Errorf("%s: %v", m.Name, err)
				}
			}
			continue
		}
		err := g.client.Call(limited(t), "grpc.AgentService", m.Name, req, reflect.New(m.Type.Out(0).Elem()).Interface())
		wantStatus(t, err, codes.Unimplemented, m.Name)
	}
	if seen != len(served) {
		t.Errorf("%d of %d served methods exist", seen, len(served))
	}
	var resp agentpb.OOMEvent
	wantStatus(t, g.client.Call(limited(t), "grpc.AgentService", "NoSuch", &agentpb.CheckRequest{}, &resp), codes.Unimplemented, "")
	wantStatus(t, g.client.Call(limited(t), "grpc.Other", "Check", &agentpb.CheckRequest{}, &resp), codes.Unimplemented, "")
}

func TestHealthIsAnsweredWithoutThePolicy(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{policy: "package agent_policy\n"})
	c, err := g.health.Check(limited(t), &agentpb.CheckRequest{Service: "x"})
	if err != nil || c.GetStatus() != agentpb.HealthCheckResponse_SERVING {
		t.Errorf("%v (%v)", c, err)
	}
	v, err := g.health.Version(limited(t), &agentpb.CheckRequest{})
	if err != nil || v.GetGrpcVersion() != "0.0.1" || v.GetAgentVersion() != "4.1.0" {
		t.Errorf("%v (%v)", v, err)
	}
	_, err = g.CreateSandbox(limited(t), &agentpb.CreateSandboxRequest{})
	wantStatus(t, err, codes.Internal, "CreateSandboxRequest")
}

// panicPolicy panics in place of a decision.
type panicPolicy struct{}

func (panicPolicy) Intercept(context.Context, ttrpc.Unmarshaler, *ttrpc.UnaryServerInfo, ttrpc.Method) (any, error) {
	panic("secret detail")
}

func (panicPolicy) SetPolicy(context.Context, string) error { return nil }

func (panicPolicy) UncheckedLayers(context.Context) (bool, error) { return false, nil }

func TestAPanicIsAnInternalErrorAndTheAgentLives(t *testing.T) {
	t.Parallel()
	log := &syncBuffer{}
	g := newGuest(t, guestOptions{log: log, swapPolicy: panicPolicy{}})
	for range 3 {
		_, err := g.StatsContainer(limited(t), &agentpb.StatsContainerRequest{ContainerId: "c1"})
		wantStatus(t, err, codes.Internal, "StatsContainer: internal error")
		if err != nil && strings.Contains(err.Error(), "secret detail") {
			t.Error("the panic's value reached the host")
		}
	}
	if text := log.String(); !strings.Contains(text, "stats_container") || !strings.Contains(text, "chain_test.go") {
		t.Errorf("no stack in the log: %s", text)
	}
}

func TestRequestContentIsNotLogged(t *testing.T) {
	t.Parallel()
	log := &syncBuffer{}
	g := newGuest(t, guestOptions{log: log})
	r := g.container("c1", "true", "ARGUMENT-CONTENT")
	r.OCI.Process.Env = append(r.OCI.Process.Env, "TOKEN=ENV-CONTENT")
	g.created(t, r)
	if _, err := g.CopyFile(limited(t), &agentpb.CopyFileRequest{
		Path: g.paths.Shared + "/f", FileSize: 12, FileMode: 0o100600, Data: []byte("FILE-CONTENT"),
	}); err != nil {
		t.Fatal(err)
	}
	if text := log.String(); strings.Contains(text, "-CONTENT") || !strings.Contains(text, "method=create_container") {
		t.Errorf("log: %s", text)
	}
}

func TestACallWithoutDeadlineGetsOne(t *testing.T) {
	t.Parallel()
	for method, want := range map[string]time.Duration{
		"StatsContainer": callLimit, "CreateContainer": createLimit, "WaitProcess": 0, "GetOOMEvent": 0, "ReadStdout": 0,
	} {
		info := &ttrpc.UnaryServerInfo{FullMethod: "/grpc.AgentService/" + method}
		_, err := boundTime(t.Context(), nil, info, func(ctx context.Context, _ func(any) error) (any, error) {
			end, ok := ctx.Deadline()
			if ok != (want > 0) || (ok && time.Until(end) > want) {
				t.Errorf("%s: deadline %v %t, want %v", method, end, ok, want)
			}
			return nil, nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestTooManyCallsAreRefused(t *testing.T) {
	t.Parallel()
	a := &Agent{}
	a.calls.Store(maxCalls)
	_, err := a.boundCalls(t.Context(), nil, nil, func(context.Context, func(any) error) (any, error) {
		t.Error("the call was carried out")
		return nil, nil
	})
	wantStatus(t, err, codes.ResourceExhausted, "calls in flight")
	if n := a.calls.Load(); n != maxCalls {
		t.Errorf("%d calls counted", n)
	}
}

func TestTwoHundredBlockedCallsDelayNoOther(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	g.started(t, "c1", "sleep", "1000")
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			switch i % 3 {
			case 0:
				_, err := g.GetOOMEvent(limited(t), &agentpb.GetOOMEventRequest{})
				wantStatus(t, err, codes.Internal, "")
			case 1:
				if code := g.wait(t, "c1", ""); code != 137 {
					t.Errorf("exit code %d", code)
				}
			default:
				r, err := g.ReadStdout(limited(t), &agentpb.ReadStreamRequest{ContainerId: "c1", Len: 10})
				if err != nil || len(r.GetData()) > 0 {
					t.Errorf("read %q (%v)", r.GetData(), err)
				}
			}
		})
	}
	for g.agent.calls.Load() < 200 {
		if _, err := g.health.Check(limited(t), &agentpb.CheckRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		if _, err := g.StatsContainer(limited(t), &agentpb.StatsContainerRequest{ContainerId: "c1"}); err != nil {
			t.Fatal(err)
		}
	}
	// Everything that waits ends with the sandbox.
	if _, err := g.SignalProcess(limited(t), &agentpb.SignalProcessRequest{ContainerId: "c1", Signal: 9}); err != nil {
		t.Fatal(err)
	}
	for g.agent.calls.Load() > 67 { // those of GetOOMEvent
		if _, err := g.health.Check(limited(t), &agentpb.CheckRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.DestroySandbox(limited(t), &agentpb.DestroySandboxRequest{}); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
}

func TestABrokenConnectionEndsItsCallsOnly(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	g.started(t, "c1", "sleep", "1000")
	second := g.dial(t)
	failed := make(chan error, 1)
	go func() {
		var resp agentpb.WaitProcessResponse
		failed <- second.Call(limited(t), "grpc.AgentService", "WaitProcess", &agentpb.WaitProcessRequest{ContainerId: "c1"}, &resp)
	}()
	for g.agent.calls.Load() < 1 {
		if _, err := g.health.Check(limited(t), &agentpb.CheckRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	closeClient(t, second)
	if err := <-failed; err == nil {
		t.Error("a call on a closed connection succeeded")
	}
	for g.agent.calls.Load() > 0 {
		if _, err := g.GetGuestDetails(limited(t), &agentpb.GuestDetailsRequest{}); err != nil {
			t.Fatal(err)
		}
		if t.Context().Err() != nil {
			t.Fatal("the abandoned call does not end")
		}
	}
}

func TestAFrameThatIsTooLongIsRefused(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	conn, err := net.Dial("unix", g.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// Header only: 4 GiB - 1 are announced, for stream 1.
	if _, err := conn.Write([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0}); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := g.health.Check(limited(t), &agentpb.CheckRequest{}); err != nil {
		t.Errorf("another connection suffers: %v", err)
	}
}
