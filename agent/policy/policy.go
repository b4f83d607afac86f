// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cocoon/internal/wire/agentpb"
)

const (
	defaultEvalLimit = 5 * time.Second
	defaultMaxDenial = 16 << 10

	// Lines of the owner's log that denials may cause per second. The host
	// decides how many requests are denied, so it must not decide the amount.
	denialRate  = 20
	denialBurst = 200
)

// Stream names an output stream of a process.
type Stream struct {
	ContainerID string
	ExecID      string
	Stderr      bool // stderr, else stdout
}

// Config is what an Engine depends on. The zero value is usable and strict.
type Config struct {
	// Log receives life-cycle lines without request content. The host may be
	// able to read it. Nil means no log.
	Log *slog.Logger

	// Owner receives one line per denied request: the rule, the request and the
	// policy's prints, without environment values and payload bytes. It must
	// not be readable by the host. Give it a JSON handler. Nil means none.
	Owner *slog.Logger

	// MaxDenial caps the error text of a denial, in bytes; 0 means 16 KiB.
	MaxDenial int

	// EvalLimit is the time one decision may take; 0 means 5 s.
	EvalLimit time.Duration

	// AllowInitialSetPolicy accepts SetPolicy while no policy is loaded. Only a
	// development profile sets it: the host then chooses the policy.
	AllowInitialSetPolicy bool

	// OnDeniedRead is told of each denied ReadStdout or ReadStderr. The client
	// gets an empty answer and takes it for the end of the stream, so nobody
	// reads the pipe any more: the receiver must start to discard the stream's
	// output, or the process blocks on a full pipe. It is called once per
	// denied request, possibly several times for a stream, and must return at
	// once. Nil means that nothing is discarded.
	OnDeniedRead func(context.Context, Stream)
}

// Engine holds the policy that is in force. Its methods may be called
// concurrently.
type Engine struct {
	cfg     Config
	rules   map[string]string // full ttrpc method -> rule
	limiter *rate.Limiter

	// turn holds one token; its owner may use active and the ledger below it.
	// A channel, not a mutex, so that a request whose deadline has passed does
	// not wait for it. It is held for evaluation, never while a handler runs.
	turn   chan struct{}
	active *ledger // nil: no policy is loaded
}

// New returns an engine without a policy: it refuses every request.
func New(cfg Config) *Engine {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Owner == nil {
		cfg.Owner = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxDenial <= 0 {
		cfg.MaxDenial = defaultMaxDenial
	}
	if cfg.EvalLimit <= 0 {
		cfg.EvalLimit = defaultEvalLimit
	}
	return &Engine{
		cfg:     cfg,
		rules:   methodRules(),
		limiter: rate.NewLimiter(denialRate, denialBurst),
		turn:    make(chan struct{}, 1),
	}
}

// Load puts text in force and resets the policy state. If it returns an error
// nothing has changed. Errors caused by the text wrap ErrBadPolicy.
func (e *Engine) Load(ctx context.Context, text string) error {
	p, err := compile(text, e.ruleNames())
	if err != nil {
		return err
	}
	l, err := newLedger(ctx, p, e.cfg.EvalLimit)
	if err != nil {
		return err
	}
	if err := e.lock(ctx); err != nil {
		return err
	}
	defer e.unlock()
	e.active = l
	e.cfg.Log.Info("policy loaded", "sha256", p.digest, "bytes", len(text), "allow_failing", l.allowFailing)
	return nil
}

// SetPolicy does Load for the handler of the SetPolicy request, which the
// interceptor has allowed by then. Its errors are ttrpc statuses: a text that
// is no policy is INVALID_ARGUMENT and leaves the previous policy in force.
func (e *Engine) SetPolicy(ctx context.Context, text string) error {
	err := e.Load(ctx, text)
	if err == nil {
		return nil
	}
	return status.Error(codeOf(err), err.Error())
}

// Digest returns the lower-case hexadecimal SHA-256 of the policy text in
// force, or "" while none is loaded.
func (e *Engine) Digest(ctx context.Context) (string, error) {
	if err := e.lock(ctx); err != nil {
		return "", err
	}
	defer e.unlock()
	if e.active == nil {
		return "", nil
	}
	return e.active.prog.digest, nil
}

// UncheckedLayers says whether the policy in force lets a container's root have
// layers that nothing checks: by its rule AllowUncheckedLayers, or because it
// allows what it refuses.
func (e *Engine) UncheckedLayers(ctx context.Context) (bool, error) {
	if err := e.lock(ctx); err != nil {
		return false, err
	}
	defer e.unlock()
	return e.active != nil && (e.active.anyLayers || e.active.allowFailing), nil
}

func (e *Engine) lock(ctx context.Context) error {
	select {
	case e.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

func (e *Engine) unlock() { <-e.turn }

func (e *Engine) ruleNames() []string {
	names := make([]string, 0, len(e.rules))
	for _, r := range e.rules {
		names = append(names, r)
	}
	return names
}

// methodRules maps each method of the agent's service to its rule: the name of
// the request message. Methods that share a message share the rule.
func methodRules() map[string]string {
	rules := make(map[string]string)
	svc := agentpb.File_agent_agent_proto.Services().ByName("AgentService")
	for i := range svc.Methods().Len() {
		m := svc.Methods().Get(i)
		rules["/"+string(svc.FullName())+"/"+string(m.Name())] = string(m.Input().Name())
	}
	return rules
}

// codeOf maps errors to status codes; one that is a status keeps its code.
func codeOf(err error) codes.Code {
	if s, ok := status.FromError(err); ok {
		return s.Code()
	}
	switch {
	case errors.Is(err, ErrBadPolicy):
		return codes.InvalidArgument
	case errors.Is(err, errTooComplex):
		return codes.ResourceExhausted
	default:
		return codes.Internal
	}
}
