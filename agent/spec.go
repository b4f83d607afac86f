// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"cocoon/agent/pause"
	"cocoon/agent/storage"
	"cocoon/internal/wire/agentpb"
)

// nobody is who the pause program runs as.
const nobody = 65534

// checkContainerRequest refuses what this agent does not do, before anything
// is done.
func checkContainerRequest(r *agentpb.CreateContainerRequest) error {
	if err := checkContainerID(r.GetContainerId()); err != nil {
		return err
	}
	if n := len(r.GetSharedMounts()); n > 0 {
		return fmt.Errorf("%d shared mounts: %w", n, ErrUnsupported)
	}
	return checkKind(r)
}

// checkKind refuses a container that its specification and its image call
// different things. The specification decides about the process, the image
// about the root: otherwise a policy that lets every sandbox container pass,
// since nothing but the built-in pause runs in it, would let the host run an
// image of its choice under that name.
func checkKind(r *agentpb.CreateContainerRequest) error {
	sandbox := storage.IsSandbox(r.GetOCI().GetAnnotations())
	for _, s := range r.GetStorages() {
		if s.GetDriver() != storage.DriverImagePull {
			continue
		}
		metadata, err := storage.ParsePullOption(s.GetDriverOptions())
		if err != nil {
			return err
		}
		if storage.IsSandbox(metadata) != sandbox {
			return fmt.Errorf("image and specification disagree whether this is the sandbox container: %w", ErrInvalid)
		}
		if err := checkImageName(s.GetSource(), r.GetOCI().GetAnnotations()); err != nil && !sandbox {
			return err
		}
	}
	return nil
}

// checkSpec refuses what would give the host or a container a hold on the
// guest: namespaces that are the guest's own or another container's. Only the network namespace may
// be named by the host: peer pods have it made by the pod network.
func checkSpec(spec *specs.Spec) error {
	if spec.Linux == nil || spec.Process == nil {
		return fmt.Errorf("specification without Linux or process section: %w", ErrInvalid)
	}
	for _, ns := range spec.Linux.Namespaces {
		switch ns.Type {
		case specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.PIDNamespace:
			continue
		}
		if ns.Path != "" {
			return fmt.Errorf("path of the %s namespace: %w", ns.Type, ErrInvalid)
		}
	}
	return nil
}

// setNamespaces puts a container into the pod's namespaces. pid is the path
// of the pod's pid namespace, or "" for one of the container's own. shared is
// nil when there is no sandbox; paths that the host sent are dropped then.
func setNamespaces(spec *specs.Spec, shared *sharedNamespaces, pid string) {
	if shared == nil {
		shared = &sharedNamespaces{}
	}
	list := slices.DeleteFunc(slices.Clone(spec.Linux.Namespaces), func(ns specs.LinuxNamespace) bool {
		return ns.Type == specs.PIDNamespace
	})
	for i := range list {
		switch list[i].Type {
		case specs.IPCNamespace:
			list[i].Path = shared.ipc
		case specs.UTSNamespace:
			list[i].Path = shared.uts
		}
	}
	spec.Linux.Namespaces = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: pid})
}

// isPause reports whether the container holds the pod's sandbox and its root
// is the built-in one, so that the host's process has nothing to run.
func isPause(r *agentpb.CreateContainerRequest) bool {
	pulled := slices.ContainsFunc(r.GetStorages(), func(s *agentpb.Storage) bool {
		return s.GetDriver() == storage.DriverImagePull
	})
	return pulled && storage.IsSandbox(r.GetOCI().GetAnnotations())
}

// pauseOOMScore keeps the kernel from choosing the pause program, with which
// all processes of the pod would go, when memory is short.
const pauseOOMScore = -998

// pauseProcess is what a sandbox container runs: the built-in program, as
// nobody, with no capability.
func pauseProcess() *specs.Process {
	p := &specs.Process{
		Args:            []string{pause.Path},
		Env:             []string{"PATH=/"},
		Cwd:             "/",
		User:            specs.User{UID: nobody, GID: nobody},
		Capabilities:    &specs.LinuxCapabilities{},
		NoNewPrivileges: true,
	}
	if mayLowerOOMScore() {
		p.OOMScoreAdj = new(pauseOOMScore)
	}
	return p
}

// mayLowerOOMScore reports whether this process has CAP_SYS_RESOURCE. A guest
// always does; root in a container of a development host may not.
func mayLowerOOMScore() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return err == nil && data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}
