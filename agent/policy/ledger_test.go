// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	"cocoon/internal/wire/agentpb"
)

var errHandler = errors.New("handler failed")

func remove(id string) *agentpb.RemoveContainerRequest {
	return &agentpb.RemoveContainerRequest{ContainerId: id}
}

func create(t *testing.T, e *Engine, req *agentpb.CreateContainerRequest, handler func() error) error {
	t.Helper()
	_, err := ask(t.Context(), e, "CreateContainer", req, handler)
	return err
}

func wantState(t *testing.T, e *Engine, want string) {
	t.Helper()
	if d := cmp.Diff(tree(t, want), tree(t, state(t, e))); d != "" {
		t.Errorf("state (-want +got)\n%s", d)
	}
}

func TestStateFollowsContainers(t *testing.T) {
	t.Parallel()
	e := loaded(t, Config{}, genpolicy(t))
	wantCode(t, create(t, e, appContainer(t, "c1"), nil), codes.OK)
	wantState(t, e, `{"pstate":{"c1":0,"sandbox_name":"pod1"}}`)
	wantCode(t, create(t, e, appContainer(t, "c2"), nil), codes.PermissionDenied) // its policy container is taken
	wantCode(t, create(t, e, serverContainer(t, "c1"), nil), codes.PermissionDenied)
	wantCode(t, create(t, e, serverContainer(t, "c3"), nil), codes.OK)
	wantState(t, e, `{"pstate":{"c1":0,"c3":1,"sandbox_name":"pod1"}}`)
	_, err := ask(t.Context(), e, "RemoveContainer", remove("c1"), nil)
	wantCode(t, err, codes.OK)
	wantState(t, e, `{"pstate":{"c3":1,"sandbox_name":"pod1"}}`)
	_, err = ask(t.Context(), e, "RemoveContainer", remove("never-added"), nil)
	wantCode(t, err, codes.Internal)
	wantState(t, e, `{"pstate":{"c3":1,"sandbox_name":"pod1"}}`)
	wantCode(t, create(t, e, appContainer(t, "c2"), nil), codes.OK)
}

func TestAFailedRequestLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	e := loaded(t, Config{}, genpolicy(t))
	if err := create(t, e, appContainer(t, "c1"), func() error { return errHandler }); !errors.Is(err, errHandler) {
		t.Fatalf("got %v", err)
	}
	wantState(t, e, emptyState)
	wantCode(t, create(t, e, appContainer(t, "c1"), nil), codes.OK) // a retry works
	if _, err := ask(t.Context(), e, "RemoveContainer", remove("c1"), func() error { return errHandler }); !errors.Is(err, errHandler) {
		t.Fatalf("got %v", err)
	}
	wantState(t, e, `{"pstate":{"c1":0,"sandbox_name":"pod1"}}`)
	if n := len(e.active.pending); n != 0 {
		t.Errorf("%d changes are kept", n)
	}
}

func TestAPanickingHandlerLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	e := loaded(t, Config{}, genpolicy(t))
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		err := create(t, e, appContainer(t, "c1"), func() error { panic("boom") })
		t.Errorf("got %v", err)
	}()
	wantState(t, e, emptyState)
}

func TestAFailureIsUndoneThoughTheClientHasGone(t *testing.T) {
	t.Parallel()
	e := loaded(t, Config{}, genpolicy(t))
	ctx, cancel := context.WithCancel(t.Context())
	_, err := ask(ctx, e, "CreateContainer", appContainer(t, "c1"), func() error {
		cancel()
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	wantState(t, e, emptyState)
}

func TestAnUnfinishedRequestHoldsItsSlot(t *testing.T) {
	t.Parallel()
	e := loaded(t, Config{}, genpolicy(t))
	err := create(t, e, appContainer(t, "c1"), func() error {
		wantCode(t, create(t, e, appContainer(t, "c2"), nil), codes.PermissionDenied)
		return nil
	})
	wantCode(t, err, codes.OK)
}

// TestUndoingOneKeepsWhatFollowed: the second container was accepted while the
// first, which had set the sandbox's name, was at work. The name must stay,
// or the host could give the next container another one.
func TestUndoingOneKeepsWhatFollowed(t *testing.T) {
	t.Parallel()
	e := loaded(t, Config{}, genpolicy(t))
	err := create(t, e, appContainer(t, "c1"), func() error {
		wantCode(t, create(t, e, serverContainer(t, "c2"), nil), codes.OK)
		return errHandler
	})
	if !errors.Is(err, errHandler) {
		t.Fatalf("got %v", err)
	}
	wantState(t, e, `{"pstate":{"c2":1,"sandbox_name":"pod1"}}`)
	other := appContainer(t, "c3")
	other.OCI.Annotations["io.kubernetes.cri.sandbox-name"] = "pod2"
	wantCode(t, create(t, e, other, nil), codes.PermissionDenied)
}

func TestBothOfTwoNestedFailuresAreUndone(t *testing.T) {
	t.Parallel()
	e := loaded(t, Config{}, genpolicy(t))
	entered, leave := make(chan struct{}), make(chan struct{})
	var second sync.WaitGroup
	err := create(t, e, appContainer(t, "c1"), func() error {
		second.Go(func() {
			_, err := ask(context.Background(), e, "CreateContainer", serverContainer(t, "c2"), func() error {
				close(entered)
				<-leave
				return errHandler
			})
			if !errors.Is(err, errHandler) {
				t.Errorf("got %v", err)
			}
		})
		<-entered
		return errHandler
	})
	if !errors.Is(err, errHandler) {
		t.Fatalf("got %v", err)
	}
	wantState(t, e, `{"pstate":{"c2":1,"sandbox_name":"pod1"}}`)
	close(leave)
	second.Wait()
	wantState(t, e, emptyState)
}

const baselessPolicy = `package agent_policy
CreateSandboxRequest := {"allowed": true, "ops": [{"op": "add", "path": "/pstate/open", "value": true}]}
CreateContainerRequest := {"allowed": data.pstate.open, "ops": [{"op": "add", "path": "/pstate/c", "value": 1}]}
RemoveContainerRequest := {"allowed": true, "ops": [{"op": "remove", "path": "/pstate/c"}]}
DestroySandboxRequest := true
StartContainerRequest := true
`

func TestWhatCannotBeUndoneClosesTheDoor(t *testing.T) {
	t.Parallel()
	e := loaded(t, Config{}, baselessPolicy)
	_, err := ask(t.Context(), e, "CreateSandbox", &agentpb.CreateSandboxRequest{}, func() error {
		wantCode(t, create(t, e, &agentpb.CreateContainerRequest{}, nil), codes.OK)
		return errHandler
	})
	if !errors.Is(err, errHandler) {
		t.Fatalf("got %v", err)
	}
	_, err = ask(t.Context(), e, "StartContainer", &agentpb.StartContainerRequest{}, nil)
	wantCode(t, err, codes.PermissionDenied)
	if !strings.Contains(err.Error(), "inconsistent") {
		t.Errorf("got %q, want the reason", err)
	}
	for _, id := range []string{"c", "c"} { // without state, so again and again
		_, err = ask(t.Context(), e, "RemoveContainer", remove(id), nil)
		wantCode(t, err, codes.OK)
	}
	_, err = ask(t.Context(), e, "DestroySandbox", &agentpb.DestroySandboxRequest{}, nil)
	wantCode(t, err, codes.OK)
	if err := e.Load(t.Context(), baselessPolicy); err != nil {
		t.Fatal(err)
	}
	_, err = ask(t.Context(), e, "StartContainer", &agentpb.StartContainerRequest{}, nil)
	wantCode(t, err, codes.OK)
}

func TestANewPolicyStartsWithoutState(t *testing.T) {
	t.Parallel()
	e := loaded(t, Config{}, genpolicy(t))
	err := create(t, e, appContainer(t, "c1"), func() error {
		if err := e.Load(t.Context(), genpolicy(t)); err != nil {
			t.Error(err)
		}
		wantCode(t, create(t, e, serverContainer(t, "c2"), nil), codes.OK)
		return errHandler // of the policy before: must not touch the state of this one
	})
	if !errors.Is(err, errHandler) {
		t.Fatalf("got %v", err)
	}
	wantState(t, e, `{"pstate":{"c2":1,"sandbox_name":"pod1"}}`)
}

func TestOnlyOneOfManyConcurrentRequestsGetsTheSlot(t *testing.T) {
	t.Parallel()
	e := loaded(t, Config{}, genpolicy(t))
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for i := range 16 {
		req := appContainer(t, "c"+string(rune('a'+i)))
		wg.Go(func() {
			if _, err := ask(context.Background(), e, "CreateContainer", req, nil); err == nil {
				mu.Lock()
				defer mu.Unlock()
				won++
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Errorf("%d requests got the one slot", won)
	}
}

func TestChangesAtWorkAreBounded(t *testing.T) {
	t.Parallel()
	e := loaded(t, Config{}, `package agent_policy
CreateSandboxRequest := {"allowed": true, "ops": [{"op": "add", "path": "/pstate/x", "value": 1}]}`)
	var nest func(n int)
	nest = func(n int) {
		_, err := ask(t.Context(), e, "CreateSandbox", &agentpb.CreateSandboxRequest{}, func() error {
			nest(n + 1)
			return nil
		})
		if n < maxPending && err != nil {
			t.Errorf("request %d: %v", n, err)
		}
		if n == maxPending {
			wantCode(t, err, codes.ResourceExhausted)
		}
	}
	nest(0)
	if n := len(e.active.pending); n != 0 {
		t.Errorf("%d changes are kept", n)
	}
}
