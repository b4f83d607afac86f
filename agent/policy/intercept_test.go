// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"cocoon/internal/wire/agentpb"
)

// requests yields each method of the agent's service with an empty request.
func requests(t *testing.T) map[string]proto.Message {
	t.Helper()
	out := make(map[string]proto.Message)
	methods := agentpb.File_agent_agent_proto.Services().ByName("AgentService").Methods()
	for i := range methods.Len() {
		m := methods.Get(i)
		out[string(m.Name())] = newMessage(t, m.Input())
	}
	if len(out) != 42 {
		t.Fatalf("the service has %d methods, want 42", len(out))
	}
	return out
}

func TestEveryMethodHasARuleInTheBuiltInPolicies(t *testing.T) {
	t.Parallel()
	all, none := loaded(t, Config{}, AllowAll()), loaded(t, Config{}, DenyAll())
	for method, req := range requests(t) {
		if _, err := ask(t.Context(), all, method, req, nil); err != nil {
			t.Errorf("allow-all refuses %s: %v", method, err)
		}
		resp, err := ask(t.Context(), none, method, req, func() error {
			if method != "DestroySandbox" {
				t.Errorf("deny-all let %s reach its handler", method)
			}
			return nil
		})
		switch method {
		case "DestroySandbox":
			wantCode(t, err, codes.OK)
		case "ReadStdout", "ReadStderr":
			if r, ok := resp.(*agentpb.ReadStreamResponse); err != nil || !ok || len(r.GetData()) != 0 {
				t.Errorf("%s: got %v, %v; want an empty answer", method, resp, err)
			}
		default:
			wantCode(t, err, codes.PermissionDenied)
		}
	}
}

func TestWithoutAPolicyEveryRequestIsRefused(t *testing.T) {
	t.Parallel()
	e := New(Config{})
	for method, req := range requests(t) {
		_, err := ask(t.Context(), e, method, req, func() error {
			t.Errorf("%s reached its handler", method)
			return nil
		})
		wantCode(t, err, codes.PermissionDenied)
		want := string(req.ProtoReflect().Descriptor().Name()) + " is blocked by policy: no policy is loaded"
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want %q in it", err, want)
		}
	}
}

func TestMethodsThatShareAMessageShareTheRule(t *testing.T) {
	t.Parallel()
	rules := methodRules()
	for method, want := range map[string]string{
		"ReadStdout": "ReadStreamRequest", "ReadStderr": "ReadStreamRequest", "WriteStdin": "WriteStreamRequest",
		"GetGuestDetails": "GuestDetailsRequest", "GetVolumeStats": "VolumeStatsRequest",
		"MemAgentMemcgSet": "MemAgentMemcgConfig", "MemAgentCompactSet": "MemAgentCompactConfig",
		"GetIPTables": "GetIPTablesRequest", "SetPolicy": "SetPolicyRequest",
	} {
		if got := rules["/grpc.AgentService/"+method]; got != want {
			t.Errorf("%s: got rule %q, want %q", method, got, want)
		}
	}
}

func TestTheFirstPolicyMayComeFromTheHostOnlyIfConfigured(t *testing.T) {
	t.Parallel()
	req := &agentpb.SetPolicyRequest{Policy: AllowAll()}
	for _, allowed := range []bool{false, true} {
		e := New(Config{AllowInitialSetPolicy: allowed})
		_, err := ask(t.Context(), e, "SetPolicy", req, func() error { return e.SetPolicy(t.Context(), req.GetPolicy()) })
		if (err == nil) != allowed {
			t.Errorf("AllowInitialSetPolicy %v: got %v", allowed, err)
		}
		_, err = ask(t.Context(), e, "CreateSandbox", &agentpb.CreateSandboxRequest{}, nil)
		if (err == nil) != allowed {
			t.Errorf("AllowInitialSetPolicy %v: CreateSandbox got %v", allowed, err)
		}
	}
}

func TestAnUnknownMethodOrServiceIsRefused(t *testing.T) {
	t.Parallel()
	e := loaded(t, Config{}, AllowAll())
	for _, method := range []string{
		"/grpc.AgentService/Reboot", "/other.Service/CreateContainer", "/grpc.AgentService/", "", "/grpc.HealthX/Check",
	} {
		_, err := e.Intercept(t.Context(), nil, &ttrpc.UnaryServerInfo{FullMethod: method},
			func(context.Context, func(any) error) (any, error) {
				t.Errorf("%q reached a handler", method)
				return nil, nil
			})
		wantCode(t, err, codes.PermissionDenied)
	}
}

func TestHealthIsNotAsked(t *testing.T) {
	t.Parallel()
	resp, err := New(Config{}).Intercept(t.Context(), nil, &ttrpc.UnaryServerInfo{FullMethod: "/grpc.Health/Check"},
		func(context.Context, func(any) error) (any, error) { return "serving", nil })
	if resp != "serving" || err != nil {
		t.Errorf("got %v, %v", resp, err)
	}
}

func TestAHandlerCannotPassBesideThePolicy(t *testing.T) {
	t.Parallel()
	info := &ttrpc.UnaryServerInfo{FullMethod: "/grpc.AgentService/CreateSandbox"}
	decode := func(any) error { return nil }
	for name, tc := range map[string]struct {
		policy string
		next   ttrpc.Method
		want   codes.Code
	}{
		"never decodes": {AllowAll(), func(context.Context, func(any) error) (any, error) {
			return &emptypb.Empty{}, nil
		}, codes.Internal},
		"ignores the refusal": {DenyAll(), func(_ context.Context, d func(any) error) (any, error) {
			_ = d(&agentpb.CreateSandboxRequest{}) // what a defective handler would do
			return &emptypb.Empty{}, nil
		}, codes.PermissionDenied},
		"decodes another message": {AllowAll(), func(_ context.Context, d func(any) error) (any, error) {
			return &emptypb.Empty{}, d(&agentpb.StartContainerRequest{})
		}, codes.Internal},
		"decodes no message": {AllowAll(), func(_ context.Context, d func(any) error) (any, error) {
			return &emptypb.Empty{}, d(new(string))
		}, codes.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := loaded(t, Config{}, tc.policy).Intercept(t.Context(), decode, info, tc.next)
			wantCode(t, err, tc.want)
		})
	}
}

func TestAnUndecodableRequestIsAnInvalidArgument(t *testing.T) {
	t.Parallel()
	e := loaded(t, Config{}, AllowAll())
	_, err := e.Intercept(t.Context(), func(any) error { return errors.New("bad wire") },
		&ttrpc.UnaryServerInfo{FullMethod: "/grpc.AgentService/CreateSandbox"},
		func(_ context.Context, d func(any) error) (any, error) {
			return nil, d(&agentpb.CreateSandboxRequest{})
		})
	wantCode(t, err, codes.InvalidArgument)
}

func TestTheHandlersErrorIsKept(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	e := loaded(t, Config{}, AllowAll())
	if _, err := ask(t.Context(), e, "CreateSandbox", &agentpb.CreateSandboxRequest{}, func() error { return boom }); !errors.Is(err, boom) {
		t.Errorf("got %v, want the handler's error", err)
	}
}

// agent answers what the test asks over a real connection.
type agent struct{ agentpb.AgentServiceService }

func (agent) CreateSandbox(context.Context, *agentpb.CreateSandboxRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

func (agent) ReadStdout(context.Context, *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	return &agentpb.ReadStreamResponse{Data: []byte("secret")}, nil
}

func (agent) ReadStderr(ctx context.Context, r *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	return agent{}.ReadStdout(ctx, r)
}

func TestOverTheWireADenialIsAStatusAndADeniedReadIsEmpty(t *testing.T) {
	t.Parallel()
	denied := make(chan Stream, 2)
	e := loaded(t, Config{OnDeniedRead: func(_ context.Context, s Stream) { denied <- s }}, genpolicy(t))
	c := agentpb.NewAgentServiceClient(served(t, e, agent{}))
	if _, err := c.CreateSandbox(t.Context(), &agentpb.CreateSandboxRequest{SandboxId: "s"}); err != nil {
		t.Errorf("allowed request: %v", err)
	}
	_, err := c.CreateSandbox(t.Context(), &agentpb.CreateSandboxRequest{SandboxId: "s", GuestHookPath: "/hooks"})
	wantCode(t, err, codes.PermissionDenied)
	if want := "CreateSandboxRequest is blocked by policy: agent_policy:"; !strings.Contains(err.Error(), want) {
		t.Errorf("got %q, want %q in it", err, want)
	}
	r, err := c.ReadStdout(t.Context(), &agentpb.ReadStreamRequest{ContainerId: "c", ExecId: "x", Len: 10})
	if err != nil || len(r.GetData()) != 0 {
		t.Errorf("denied read: got %q, %v; want an empty answer", r.GetData(), err)
	}
	if got, want := <-denied, (Stream{ContainerID: "c", ExecID: "x"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if _, err = c.ReadStderr(t.Context(), &agentpb.ReadStreamRequest{ContainerId: "c"}); err != nil {
		t.Errorf("denied read of stderr: %v", err)
	}
	if got, want := <-denied, (Stream{ContainerID: "c", Stderr: true}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestAnAbandonedRequestDoesNotWaitForItsTurn(t *testing.T) {
	t.Parallel()
	e := loaded(t, Config{}, AllowAll())
	if err := e.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer e.unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := ask(ctx, e, "CreateSandbox", &agentpb.CreateSandboxRequest{}, nil)
	wantCode(t, err, codes.Canceled)
}

func TestBuiltInTextsNameEveryRequestMessage(t *testing.T) {
	t.Parallel()
	for _, text := range []string{AllowAll(), DenyAll()} {
		for _, req := range requests(t) {
			name := string(req.ProtoReflect().Descriptor().Name())
			if !strings.Contains(text, "default "+name+" := ") {
				t.Errorf("no rule for %s", name)
			}
		}
	}
}
