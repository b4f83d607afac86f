// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/open-policy-agent/opa/v1/ast"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"cocoon/internal/wire/agentpb"
)

// settleLimit is the time after a handler within which its state changes are
// committed or undone, also when the client has gone.
const settleLimit = 30 * time.Second

// exemptServices are served without asking the policy. Health says whether the
// agent answers at all and takes no argument that matters.
var exemptServices = map[string]bool{"/grpc.Health": true}

// Intercept is the ttrpc.UnaryServerInterceptor that stands before every
// handler. The policy decides when the handler decodes its request, so it sees
// the very message the handler gets: an interceptor that changes requests must
// come before this one in the chain. A method that the agent's protocol does not have is
// refused. A denied read of a stream gives an empty answer, not an error, and
// calls Config.OnDeniedRead.
func (e *Engine) Intercept(ctx context.Context, decode ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, next ttrpc.Method) (resp any, err error) {
	if exemptServices[path.Dir(info.FullMethod)] {
		return next(ctx, decode)
	}
	rule, ok := e.rules[info.FullMethod]
	if !ok {
		return nil, status.Errorf(codes.PermissionDenied, "method %q is blocked: it has no policy rule", info.FullMethod)
	}
	c := &call{engine: e, rule: rule, method: path.Base(info.FullMethod)}
	// Runs on a panic of the handler too: its changes must not stay.
	succeeded := false
	defer func() { c.settle(ctx, succeeded) }()
	resp, err = next(ctx, func(req any) error { return c.admit(ctx, decode, req) })
	switch {
	case c.emptyRead:
		return &agentpb.ReadStreamResponse{}, nil
	case c.refusal != nil:
		return nil, c.refusal
	case err == nil && !c.asked:
		return nil, status.Errorf(codes.Internal, "%s: the handler answered without reading its request", rule)
	}
	succeeded = err == nil
	return resp, err
}

// call is one request on its way through Intercept. It is used by the
// goroutine of the request only.
type call struct {
	engine *Engine
	rule   string
	method string

	asked     bool
	refusal   error // what the host gets instead of the handler's answer
	emptyRead bool
	ledger    *ledger // in which change was recorded
	change    *change
}

// admit decodes the request and returns an error unless it is allowed.
func (c *call) admit(ctx context.Context, decode ttrpc.Unmarshaler, into any) error {
	c.asked = true
	if err := decode(into); err != nil {
		c.refusal = status.Errorf(codes.InvalidArgument, "%s: decode request: %v", c.rule, err)
		return c.refusal
	}
	req, ok := into.(proto.Message)
	if !ok || string(req.ProtoReflect().Descriptor().Name()) != c.rule {
		c.refusal = status.Errorf(codes.Internal, "%s: internal error: the handler decodes a %T", c.rule, into)
		return c.refusal
	}
	c.refusal = c.ask(ctx, req)
	return c.refusal
}

func (c *call) ask(ctx context.Context, req proto.Message) error {
	input, err := encode(req)
	if errors.Is(err, errSymlinkTarget) {
		return status.Errorf(codes.InvalidArgument, "%s: %v", c.rule, err)
	}
	if err != nil {
		return status.Errorf(codeOf(err), "%s: %v", c.rule, err)
	}
	if err := c.engine.lock(ctx); err != nil {
		return err
	}
	l := c.engine.active
	var v verdict
	var asked evaluation
	if l != nil {
		asked = l.question(c.rule, input)
		v, c.change, err = l.decide(ctx, c.rule, input)
		c.ledger = l
	}
	c.engine.unlock()
	switch {
	case l == nil:
		return c.closedDoor(ctx, req)
	case err != nil:
		return c.engine.failure(c.rule, err)
	case v.allowed:
		return nil
	}
	refusal := c.engine.refuse(ctx, denial{
		rule: c.rule, req: req, reason: v.reason, prints: v.prints, hidden: l.hidePrints,
		explain: func(shown ast.Value, secrets []string) ([]Failure, error) {
			return l.prog.explain(ctx, asked, shown, secrets)
		},
	})
	if r, ok := req.(*agentpb.ReadStreamRequest); ok {
		c.denyRead(ctx, r)
	}
	return refusal
}

// closedDoor answers while no policy is loaded.
func (c *call) closedDoor(ctx context.Context, req proto.Message) error {
	if c.rule == setPolicyRule && c.engine.cfg.AllowInitialSetPolicy {
		return nil
	}
	return c.engine.refuse(ctx, denial{rule: c.rule, req: req, reason: "no policy is loaded"})
}

func (c *call) denyRead(ctx context.Context, r *agentpb.ReadStreamRequest) {
	c.emptyRead = true
	if c.engine.cfg.OnDeniedRead != nil {
		c.engine.cfg.OnDeniedRead(ctx, Stream{
			ContainerID: r.GetContainerId(),
			ExecID:      r.GetExecId(),
			Stderr:      c.method == "ReadStderr",
		})
	}
}

// settle commits or undoes the state changes of the request.
func (c *call) settle(ctx context.Context, succeeded bool) {
	if c.change == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleLimit)
	defer cancel()
	e := c.engine
	if err := e.lock(ctx); err != nil {
		e.cfg.Log.Error("policy state was not settled", "rule", c.rule, "error", err)
		return // the change stays pending: the slot it took is not given again
	}
	defer e.unlock()
	if succeeded {
		c.ledger.commit(c.change)
		return
	}
	if err := c.ledger.rollback(ctx, c.change); err != nil {
		e.cfg.Log.Error("policy state is inconsistent, only removal is allowed from here on", "error", err)
	}
}

// failure is the error for a request that the policy could not judge.
func (e *Engine) failure(rule string, err error) error {
	if errors.Is(err, errTooManyPending) {
		return status.Errorf(codes.ResourceExhausted, "%s: %v", rule, err)
	}
	text := strings.ToValidUTF8(fmt.Sprintf("%s: internal error: %v", rule, err), "\ufffd")
	return status.Error(codes.Internal, cut(text, e.cfg.MaxDenial))
}
