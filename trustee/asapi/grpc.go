// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package asapi

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"cocoon/internal/wire/aspb"
)

// RPC is the interface over gRPC, with the key set beside it. It is served by
// an http.Server that speaks HTTP/2, whose limits of time hold for each request.
type RPC struct {
	server *grpc.Server
	plain  http.Handler
}

// GRPC returns the interface over gRPC. Close it when done.
func (a *API) GRPC() *RPC {
	s := grpc.NewServer(grpc.MaxRecvMsgSize(MaxRequest), grpc.UnaryInterceptor(a.intercept))
	aspb.RegisterAttestationServiceServer(s, &attestationRPC{api: a})
	aspb.RegisterReferenceValueProviderServiceServer(s, &referenceRPC{api: a})
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	mux := http.NewServeMux()
	mux.Handle("GET "+keySetPath, a.answering(a.getKeySet))
	return &RPC{server: s, plain: mux}
}

// ServeHTTP implements http.Handler.
func (r *RPC) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if strings.HasPrefix(req.Header.Get("Content-Type"), "application/grpc") {
		r.server.ServeHTTP(w, req)
		return
	}
	r.plain.ServeHTTP(w, req)
}

// Close ends the calls in progress.
func (r *RPC) Close() { r.server.Stop() }

// intercept turns an error into its status. gRPC runs calls in goroutines of
// its own, where a panic would end the broker.
func (a *API) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (out any, err error) {
	defer func() {
		if p := recover(); p != nil {
			a.Log.Error("call panicked", "method", info.FullMethod, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			out, err = nil, status.Error(codes.Internal, "internal error")
		}
	}()
	out, err = next(ctx, req)
	if err == nil {
		return out, nil
	}
	if _, ok := status.FromError(err); ok {
		return nil, err // of a service that is not ours
	}
	a.refuse(peerOf(ctx), info.FullMethod, err)
	x := answerOf(err)
	return nil, status.Error(x.code, x.text)
}

func peerOf(ctx context.Context) caller {
	var c caller
	if p, ok := peer.FromContext(ctx); ok {
		c.remote = p.Addr.String()
	}
	if v := metadata.ValueFromIncomingContext(ctx, "authorization"); len(v) > 0 {
		c.authorization = v[0]
	}
	return c
}

type attestationRPC struct {
	aspb.UnimplementedAttestationServiceServer
	api *API
}

func (s *attestationRPC) AttestationEvaluate(ctx context.Context, m *aspb.AttestationRequest) (*aspb.AttestationResponse, error) {
	token, err := s.api.evaluate(ctx, peerOf(ctx), requestOf(m))
	if err != nil {
		return nil, err
	}
	return &aspb.AttestationResponse{AttestationToken: token}, nil
}

func (s *attestationRPC) SetAttestationPolicy(ctx context.Context, m *aspb.SetPolicyRequest) (*aspb.SetPolicyResponse, error) {
	if err := s.api.setPolicy(peerOf(ctx), m.GetPolicyId(), m.GetPolicy()); err != nil {
		return nil, err
	}
	return &aspb.SetPolicyResponse{}, nil
}

func (s *attestationRPC) GetAttestationChallenge(ctx context.Context, m *aspb.ChallengeRequest) (*aspb.ChallengeResponse, error) {
	member := func(name string) *string {
		v, ok := m.GetInner()[name]
		if !ok {
			return nil
		}
		return &v
	}
	text, err := s.api.challenge(ctx, member("tee"), member("tee_params"))
	if err != nil {
		return nil, err
	}
	return &aspb.ChallengeResponse{AttestationChallenge: text}, nil
}

type referenceRPC struct {
	aspb.UnimplementedReferenceValueProviderServiceServer
	api *API
}

func (s *referenceRPC) QueryReferenceValue(ctx context.Context, m *aspb.ReferenceValueQueryRequest) (*aspb.ReferenceValueQueryResponse, error) {
	v, err := s.api.query(peerOf(ctx), m.GetReferenceValueId())
	if err != nil {
		return nil, err
	}
	return &aspb.ReferenceValueQueryResponse{ReferenceValueResults: v}, nil
}

func (s *referenceRPC) RegisterReferenceValue(ctx context.Context, m *aspb.ReferenceValueRegisterRequest) (*aspb.ReferenceValueRegisterResponse, error) {
	if err := s.api.register(peerOf(ctx), m.GetMessage()); err != nil {
		return nil, err
	}
	return &aspb.ReferenceValueRegisterResponse{}, nil
}
