// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cocoon/internal/wire/aapb"
)

// shutdownGrace is how long running calls may go on after Serve is told to end.
const shutdownGrace = 5 * time.Second

// Serve answers attestation_agent.AttestationAgentService on l until ctx ends,
// then closes l. It returns nil when ctx ended it.
func (a *Agent) Serve(ctx context.Context, l net.Listener) error {
	return a.serve(ctx, l, shutdownGrace)
}

func (a *Agent) serve(ctx context.Context, l net.Listener, grace time.Duration) error {
	srv, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(a.guard))
	if err != nil {
		return errors.Join(fmt.Errorf("make attestation agent server: %w", err), l.Close())
	}
	aapb.RegisterAttestationAgentServiceService(srv, service{a})
	// Calls end with the server, not with ctx, so that they have their grace.
	calls, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- srv.Serve(calls, l) }()
	select {
	case err := <-served:
		return errors.Join(fmt.Errorf("serve attestation agent: %w", err), srv.Close())
	case <-ctx.Done():
	}
	wait, stop := context.WithTimeout(calls, grace)
	defer stop()
	err = srv.Shutdown(wait)
	cancel()
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	if e := <-served; !errors.Is(e, ttrpc.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	if err != nil {
		return fmt.Errorf("shut down attestation agent: %w", err)
	}
	return nil
}

// guard keeps one bad request from ending the guest and reports errors with the
// code that clients of the protocol expect.
func (a *Agent) guard(ctx context.Context, decode ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, next ttrpc.Method) (resp any, err error) {
	defer func() {
		if r := recover(); r != nil {
			a.deps.Log.Error("attestation agent method broke off", "method", info.FullMethod, "cause", fmt.Sprint(r))
			resp, err = nil, status.Error(codes.Internal, errorPrefix+"internal error")
		}
	}()
	return next(ctx, decode)
}

const errorPrefix = "[ERROR:attestation-agent] "

// failure is the one place where an error becomes a status. Clients do not read
// the text, owners do: it holds the whole chain.
func (s service) failure(what string, err error) error {
	s.a.deps.Log.Warn("attestation agent request refused", "what", what, "error", err)
	code := codes.Internal
	if errors.Is(err, ErrUnsupported) {
		code = codes.Unimplemented
	}
	return status.Errorf(code, "%s%s: %v", errorPrefix, what, err)
}

// service is the wire form of an Agent.
type service struct{ a *Agent }

var _ aapb.AttestationAgentServiceService = service{}

// GetEvidence returns the TEE's evidence.
func (s service) GetEvidence(ctx context.Context, r *aapb.GetEvidenceRequest) (*aapb.GetEvidenceResponse, error) {
	b, err := s.a.Evidence(ctx, r.GetRuntimeData())
	if err != nil {
		return nil, s.failure("AA-KBC get evidence failed", err)
	}
	return &aapb.GetEvidenceResponse{Evidence: b}, nil
}

// GetAdditionalEvidence returns the evidence of devices.
func (s service) GetAdditionalEvidence(ctx context.Context, r *aapb.GetAdditionalEvidenceRequest) (*aapb.GetEvidenceResponse, error) {
	b, err := s.a.AdditionalEvidence(ctx, r.GetRuntimeData())
	if err != nil {
		return nil, s.failure("AA-KBC get additional evidence failed", err)
	}
	return &aapb.GetEvidenceResponse{Evidence: b}, nil
}

// GetToken returns a token.
func (s service) GetToken(ctx context.Context, r *aapb.GetTokenRequest) (*aapb.GetTokenResponse, error) {
	b, err := s.a.Token(ctx, r.GetTokenType())
	if err != nil {
		return nil, s.failure("AA-KBC get token failed", err)
	}
	return &aapb.GetTokenResponse{Token: b}, nil
}

// ExtendRuntimeMeasurement measures an event.
func (s service) ExtendRuntimeMeasurement(ctx context.Context, r *aapb.ExtendRuntimeMeasurementRequest) (*aapb.ExtendRuntimeMeasurementResponse, error) {
	m, err := s.a.ExtendRuntimeMeasurement(ctx, Event{
		Domain: r.GetDomain(), Operation: r.GetOperation(), Content: r.GetContent(), Register: r.RegisterIndex,
	})
	if err != nil {
		return nil, s.failure("AA extend runtime measurement failed", err)
	}
	return &aapb.ExtendRuntimeMeasurementResponse{Result: aapb.RuntimeMeasurementResult(m)}, nil
}

// BindInitData ties an initdata digest to the guest.
func (s service) BindInitData(ctx context.Context, r *aapb.BindInitDataRequest) (*aapb.BindInitDataResponse, error) {
	if err := s.a.BindInitData(ctx, r.GetDigest()); err != nil {
		return nil, s.failure("AA bind init data failed", err)
	}
	return &aapb.BindInitDataResponse{}, nil
}

// GetTeeType returns the platform's name.
func (s service) GetTeeType(context.Context, *aapb.GetTeeTypeRequest) (*aapb.GetTeeTypeResponse, error) {
	return &aapb.GetTeeTypeResponse{Tee: s.a.TEE()}, nil
}

// GetAdditionalTees returns the names of devices.
func (s service) GetAdditionalTees(context.Context, *aapb.GetAdditionalTeesRequest) (*aapb.GetAdditionalTeesResponse, error) {
	return &aapb.GetAdditionalTeesResponse{AdditionalTees: s.a.AdditionalTEEs()}, nil
}
