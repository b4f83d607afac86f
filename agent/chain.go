// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"path"
	"runtime/debug"
	"strings"
	"time"
	"unicode"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// maxCalls bounds the calls in flight on all connections. A pod keeps a
	// few per process waiting.
	maxCalls = 8192

	// callLimit ends a call whose client set no deadline and whose method does
	// not wait for a process. It is longer than any deadline the shims set.
	callLimit = 10 * time.Minute

	// createLimit is the same for a call that pulls an image.
	createLimit = time.Hour
)

// interceptors are what a call passes before its handler, the outermost first.
// before comes ahead of the policy, so that the policy sees what before makes
// of a request.
func (a *Agent) interceptors(before []ttrpc.UnaryServerInterceptor) []ttrpc.UnaryServerInterceptor {
	chain := []ttrpc.UnaryServerInterceptor{a.recoverPanic, a.boundCalls, boundTime, a.logCall, mapError}
	chain = append(chain, before...)
	return append(chain, a.policy.Intercept)
}

// recoverPanic answers INTERNAL when a handler panics, and keeps the agent
// alive. The stack goes to the log only.
func (a *Agent) recoverPanic(ctx context.Context, decode ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, next ttrpc.Method) (resp any, err error) {
	defer func() {
		if r := recover(); r != nil {
			a.log.Error("panic in a request", "method", snake(info.FullMethod), "panic", r, "stack", string(debug.Stack()))
			resp, err = nil, status.Errorf(codes.Internal, "%s: internal error", path.Base(info.FullMethod))
		}
	}()
	return next(ctx, decode)
}

// boundCalls refuses a call when too many are in flight.
func (a *Agent) boundCalls(ctx context.Context, decode ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, next ttrpc.Method) (any, error) {
	defer a.calls.Add(-1)
	if a.calls.Add(1) > maxCalls {
		return nil, status.Errorf(codes.ResourceExhausted, "more than %d calls in flight", maxCalls)
	}
	return next(ctx, decode)
}

// boundTime gives a call an end when its client set none. A deadline that the
// client sent is in ctx already.
func boundTime(ctx context.Context, decode ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, next ttrpc.Method) (any, error) {
	limit := limitOf(path.Base(info.FullMethod))
	if limit == 0 {
		return next(ctx, decode)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return next(ctx, decode)
}

// limitOf returns the longest time a method may take; 0 means as long as the
// process, stream or sandbox that it waits for.
func limitOf(method string) time.Duration {
	switch method {
	case "WaitProcess", "ReadStdout", "ReadStderr", "WriteStdin", "GetOOMEvent":
		return 0
	case "CreateContainer":
		return createLimit
	default:
		return callLimit
	}
}

// logCall writes one line per call: the method, how long it took, how it
// ended. Nothing of the request is logged; it may hold secrets.
func (a *Agent) logCall(ctx context.Context, decode ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, next ttrpc.Method) (any, error) {
	began := time.Now()
	resp, err := next(ctx, decode)
	level := slog.LevelInfo
	if frequent(path.Base(info.FullMethod)) {
		level = slog.LevelDebug
	}
	if !a.log.Enabled(ctx, level) {
		return resp, err
	}
	a.log.LogAttrs(ctx, level, "rpc call from shim to agent", slog.String("subsystem", "rpc"),
		slog.String("method", snake(info.FullMethod)), slog.Duration("took", time.Since(began)),
		slog.String("code", status.Code(err).String()))
	return resp, err
}

// frequent names the methods that shims call in a loop.
func frequent(method string) bool {
	switch method {
	case "Check", "ReadStdout", "ReadStderr", "WriteStdin", "StatsContainer", "GetOOMEvent", "CopyFile":
		return true
	}
	return false
}

// mapError turns errors into statuses, once.
func mapError(ctx context.Context, decode ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, next ttrpc.Method) (any, error) {
	resp, err := next(ctx, decode)
	if err != nil {
		return nil, toStatus(path.Base(info.FullMethod), err)
	}
	return resp, nil
}

// snake writes the method's name as the upstream agent logs it: create_sandbox
// for CreateSandbox, get_oom_event for GetOOMEvent.
func snake(fullMethod string) string {
	name := []rune(path.Base(fullMethod))
	var b strings.Builder
	for i, r := range name {
		upper := unicode.IsUpper(r)
		wordStart := upper && i > 0 &&
			(!unicode.IsUpper(name[i-1]) || (i+1 < len(name) && unicode.IsLower(name[i+1])))
		if wordStart {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
