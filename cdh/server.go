// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cdh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
	"unicode"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cocoon/internal/wire/cdhpb"
	"cocoon/internal/wire/keyproviderpb"
)

// DefaultTimeout bounds every call but pulling an image.
const DefaultTimeout = 50 * time.Second

// stopTimeout is how long running calls may take to end at shut-down.
const stopTimeout = 5 * time.Second

// Server serves a hub by ttrpc: the services of the package api, and
// keyprovider.KeyProviderService.
type Server struct {
	// Hub is required.
	Hub *Hub
	// Pull pulls image into a bundle at the path bundle and returns the digest
	// of its manifest. Nil answers UNIMPLEMENTED.
	Pull func(ctx context.Context, image, bundle string) (digest string, err error)
	// Timeout bounds every call but Pull; zero is DefaultTimeout.
	Timeout time.Duration
}

// Serve serves on l, which it closes, until ctx ends. Whoever can connect gets
// every secret that the guest may have: the socket is to be for root only.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(s.deadline))
	if err != nil {
		return errors.Join(fmt.Errorf("make ttrpc server: %w", err), l.Close())
	}
	svc := service{s}
	cdhpb.RegisterSealedSecretServiceService(srv, svc)
	cdhpb.RegisterGetResourceServiceService(srv, svc)
	cdhpb.RegisterSecureMountServiceService(srv, svc)
	cdhpb.RegisterImagePullServiceService(srv, svc)
	keyproviderpb.RegisterKeyProviderServiceService(srv, svc)

	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, l) }()
	select {
	case err := <-done:
		return errors.Join(fmt.Errorf("serve data hub: %w", err), srv.Close())
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err = srv.Shutdown(stop)
	if err != nil {
		err = errors.Join(fmt.Errorf("stop data hub: %w", err), srv.Close())
	}
	if ended := <-done; !errors.Is(ended, ttrpc.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}

const pullMethod = "/api.ImagePullService/PullImage"

// deadline bounds calls whose client set no limit, or too long a one.
func (s *Server) deadline(ctx context.Context, decode ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, next ttrpc.Method) (any, error) {
	if info.FullMethod != pullMethod {
		d := s.Timeout
		if d == 0 {
			d = DefaultTimeout
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	return next(ctx, decode)
}

// service maps calls to the hub, and errors to statuses.
type service struct{ s *Server }

// UnsealSecret implements api.SealedSecretService.
func (v service) UnsealSecret(ctx context.Context, in *cdhpb.UnsealSecretInput) (*cdhpb.UnsealSecretOutput, error) {
	b, err := v.s.Hub.UnsealSecret(ctx, in.GetSecret())
	if err != nil {
		return nil, v.internal("UnsealSecret", "Unseal Secret failed", err)
	}
	return &cdhpb.UnsealSecretOutput{Plaintext: b}, nil
}

// GetResource implements api.GetResourceService.
func (v service) GetResource(ctx context.Context, in *cdhpb.GetResourceRequest) (*cdhpb.GetResourceResponse, error) {
	b, err := v.s.Hub.GetResource(ctx, in.GetResourcePath())
	if err != nil {
		return nil, v.internal("GetResource", "Get Resource failed", err)
	}
	return &cdhpb.GetResourceResponse{Resource: b}, nil
}

// SecureMount implements api.SecureMountService: refused, never mounted plain.
func (v service) SecureMount(context.Context, *cdhpb.SecureMountRequest) (*cdhpb.SecureMountResponse, error) {
	return nil, status.Error(codes.Unimplemented, "secure mount is not available in this guest")
}

// PullImage implements api.ImagePullService.
func (v service) PullImage(ctx context.Context, in *cdhpb.ImagePullRequest) (*cdhpb.ImagePullResponse, error) {
	if v.s.Pull == nil {
		return nil, status.Error(codes.Unimplemented, "image pull is not available on this socket")
	}
	digest, err := v.s.Pull(ctx, in.GetImageUrl(), in.GetBundlePath())
	if err != nil {
		return nil, v.internal("PullImage", "Image Pull error", err)
	}
	return &cdhpb.ImagePullResponse{ManifestDigest: digest}, nil
}

// WrapKey implements keyprovider.KeyProviderService: the guest only decrypts.
func (v service) WrapKey(context.Context, *keyproviderpb.KeyProviderKeyWrapProtocolInput) (*keyproviderpb.KeyProviderKeyWrapProtocolOutput, error) {
	return nil, status.Error(codes.Unimplemented, "this guest does not encrypt images")
}

// UnWrapKey implements keyprovider.KeyProviderService.
func (v service) UnWrapKey(ctx context.Context, in *keyproviderpb.KeyProviderKeyWrapProtocolInput) (*keyproviderpb.KeyProviderKeyWrapProtocolOutput, error) {
	packet, err := parseUnwrapRequest(in.GetKeyProviderKeyWrapProtocolInput())
	if err != nil {
		return nil, v.fail("UnWrapKey", "[ERROR] UnwrapKey Parse request failed", err)
	}
	plain, err := v.s.Hub.UnwrapKey(ctx, packet)
	if err != nil {
		return nil, v.internal("UnWrapKey", "Decrypt Image (UnwrapKey) failed", err)
	}
	defer wipe(plain)
	out, err := unwrapResponse(plain)
	if err != nil {
		return nil, v.internal("UnWrapKey", "Decrypt Image (UnwrapKey) failed", err)
	}
	return &keyproviderpb.KeyProviderKeyWrapProtocolOutput{KeyProviderKeyWrapProtocolOutput: out}, nil
}

// internal is the status of a failed call: code and first words are what
// clients match on, the cause behind them is for the owner.
func (v service) internal(method, text string, err error) error {
	return v.fail(method, "[CDH] [ERROR]: "+text, err)
}

func (v service) fail(method, text string, err error) error {
	cause := printable(err.Error())
	v.s.Hub.dep.Log.Warn("data hub request failed", "method", method, "error", cause)
	return status.Error(codes.Internal, text+": "+cause)
}

// maxCause bounds the cause in a status, which may quote the caller.
const maxCause = 2048

func printable(s string) string {
	if len(s) > maxCause {
		s = strings.ToValidUTF8(s[:maxCause], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}
