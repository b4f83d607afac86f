// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package podvm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cocoon/internal/wire/agentpb"
)

// DefaultNetNS is the network namespace that all containers of the pod join.
const DefaultNetNS = "/run/netns/podns"

const networkNamespace = "network"

// Annotations that ask for volumes which this guest does not attach.
const (
	annotationCloudVolumes = "io.confidentialcontainers.org.cloud_volumes"
	annotationTargetPath   = "io.confidentialcontainers.org.peerpodvolumes.target_path"
)

// Errors of rewriting.
var (
	// ErrNamespace is returned for a container that asks for a network
	// namespace other than the pod's.
	ErrNamespace = errors.New("container asks for another network namespace")
	// ErrVolume is returned for volumes that would silently be missing.
	ErrVolume = errors.New("cloud volumes are not supported")
)

// Rewriter adapts requests of a peer pod's host to this guest. It runs ahead
// of the policy, which therefore judges what becomes of a request.
type Rewriter struct {
	// NetNS is the pod's network namespace, DefaultNetNS if empty.
	NetNS string
	// Log may be nil.
	Log *slog.Logger
}

// Intercept is a ttrpc.UnaryServerInterceptor.
func (r Rewriter) Intercept(ctx context.Context, decode ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, next ttrpc.Method) (any, error) {
	return next(ctx, func(req any) error {
		if err := decode(req); err != nil {
			return err
		}
		if err := r.Rewrite(req); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		return nil
	})
}

// Rewrite changes a decoded request in place; most pass unchanged.
func (r Rewriter) Rewrite(req any) error {
	switch req := req.(type) {
	case *agentpb.CreateSandboxRequest:
		// The guest keeps the resolver of its own network; pods bring theirs
		// as a file.
		if n := len(req.Dns); n > 0 && r.Log != nil {
			r.Log.Info("DNS servers of the request are not used", "count", n)
		}
		req.Dns = nil
	case *agentpb.CreateContainerRequest:
		return r.container(req)
	}
	return nil
}

func (r Rewriter) container(req *agentpb.CreateContainerRequest) error {
	spec := req.GetOCI()
	if spec == nil {
		return nil
	}
	for _, a := range []string{annotationCloudVolumes, annotationTargetPath} {
		if spec.GetAnnotations()[a] != "" {
			return fmt.Errorf("annotation %s: %w", a, ErrVolume)
		}
	}
	path := r.NetNS
	if path == "" {
		path = DefaultNetNS
	}
	if spec.Linux == nil {
		spec.Linux = &agentpb.Linux{}
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.GetType() != networkNamespace {
			continue
		}
		if ns.GetPath() == path {
			path = ""
			continue
		}
		return fmt.Errorf("namespace %.100q: %w", ns.GetPath(), ErrNamespace)
	}
	if path != "" {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, &agentpb.LinuxNamespace{Type: networkNamespace, Path: path})
	}
	return nil
}
