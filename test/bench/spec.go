// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cocoon/agent/runtime/ocipb"
	"cocoon/internal/wire/agentpb"
)

// containerSpec changes a shim's specification so that both sides can run it:
// a root that is there already, a cgroup of the benchmark's, and no mount that
// refers to the sandbox.
func containerSpec(spec *agentpb.Spec, root, id string) *agentpb.Spec {
	spec.Root = &agentpb.Root{Path: root}
	spec.Linux.CgroupsPath = "/" + benchCgroup + "/" + id
	spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m *agentpb.Mount) bool { return m.GetType() == "bind" })
	return spec
}

// runcSpec is what our agent makes of the same specification: the namespaces
// of the sandbox are joined and the container gets a pid namespace.
func runcSpec(pb *agentpb.Spec, ipc, uts string) (*specs.Spec, error) {
	spec, err := ocipb.ToSpec(pb)
	if err != nil {
		return nil, err
	}
	for i := range spec.Linux.Namespaces {
		switch spec.Linux.Namespaces[i].Type {
		case specs.IPCNamespace:
			spec.Linux.Namespaces[i].Path = ipc
		case specs.UTSNamespace:
			spec.Linux.Namespaces[i].Path = uts
		}
	}
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace})
	return spec, nil
}
