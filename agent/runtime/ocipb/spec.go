// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package ocipb translates between the protobuf form in which a kata shim
// sends OCI structures and the Go types of the OCI runtime specification, and
// back for cgroup statistics.
//
// The input is written by the untrusted host. Every function here is pure: it
// touches no file, never panics, and refuses a number that the target type
// cannot hold instead of cutting it. What a value is allowed to be is not
// decided here but by policy and by the runtime.
//
// On the wire an absent number and a zero are the same thing. The OCI types
// have pointers, where nil means "leave alone" and zero often means "forbid
// everything"; so a zero becomes nil unless the field has no other way to say
// zero.
package ocipb

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cocoon/internal/wire/agentpb"
)

// ErrNoSpec is returned when a request carries no OCI specification.
var ErrNoSpec = errors.New("no OCI specification in the request")

// ErrNoProcess is returned when a request carries no process.
var ErrNoProcess = errors.New("no process in the request")

// ToSpec converts the specification of a CreateContainer request. Fields for
// other operating systems are ignored. Nothing of the result aliases pb.
func ToSpec(pb *agentpb.Spec) (*specs.Spec, error) {
	if pb == nil {
		return nil, ErrNoSpec
	}
	spec := &specs.Spec{
		Version:     pb.GetVersion(),
		Hostname:    pb.GetHostname(),
		Annotations: copyMap(pb.GetAnnotations()),
		Mounts:      toMounts(pb.GetMounts()),
	}
	if r := pb.GetRoot(); r != nil {
		spec.Root = &specs.Root{Path: r.GetPath(), Readonly: r.GetReadonly()}
	}
	var err error
	if pb.GetProcess() != nil {
		if spec.Process, err = ToProcess(pb.GetProcess()); err != nil {
			return nil, err
		}
	}
	if spec.Hooks, err = toHooks(pb.GetHooks()); err != nil {
		return nil, err
	}
	if spec.Linux, err = toLinux(pb.GetLinux()); err != nil {
		return nil, err
	}
	return spec, nil
}

// ToProcess converts a process of a CreateContainer or ExecProcess request.
// An OOM score adjustment outside [-1000, 1000] is an error.
func ToProcess(pb *agentpb.Process) (*specs.Process, error) {
	if pb == nil {
		return nil, ErrNoProcess
	}
	p := &specs.Process{
		Terminal:        pb.GetTerminal(),
		User:            toUser(pb.GetUser()),
		Args:            slices.Clone(pb.GetArgs()),
		Env:             slices.Clone(pb.GetEnv()),
		Cwd:             pb.GetCwd(),
		Capabilities:    toCapabilities(pb.GetCapabilities()),
		NoNewPrivileges: pb.GetNoNewPrivileges(),
		ApparmorProfile: pb.GetApparmorProfile(),
		SelinuxLabel:    pb.GetSelinuxLabel(),
	}
	if box := pb.GetConsoleSize(); box.GetHeight() != 0 && box.GetWidth() != 0 {
		p.ConsoleSize = &specs.Box{Height: uint(box.GetHeight()), Width: uint(box.GetWidth())}
	}
	for _, rl := range pb.GetRlimits() {
		p.Rlimits = append(p.Rlimits, specs.POSIXRlimit{Type: rl.GetType(), Hard: rl.GetHard(), Soft: rl.GetSoft()})
	}
	if adj := pb.GetOOMScoreAdj(); adj != 0 {
		if adj < -1000 || adj > 1000 {
			return nil, fmt.Errorf("convert process: OOM score adjustment %d out of range", adj)
		}
		p.OOMScoreAdj = new(int(adj))
	}
	return p, nil
}

func toUser(pb *agentpb.User) specs.User {
	return specs.User{
		UID:            pb.GetUID(),
		GID:            pb.GetGID(),
		AdditionalGids: slices.Clone(pb.GetAdditionalGids()),
		Username:       pb.GetUsername(),
	}
}

func toCapabilities(pb *agentpb.LinuxCapabilities) *specs.LinuxCapabilities {
	if pb == nil {
		return nil
	}
	return &specs.LinuxCapabilities{
		Bounding:    slices.Clone(pb.GetBounding()),
		Effective:   slices.Clone(pb.GetEffective()),
		Inheritable: slices.Clone(pb.GetInheritable()),
		Permitted:   slices.Clone(pb.GetPermitted()),
		Ambient:     slices.Clone(pb.GetAmbient()),
	}
}

func toMounts(pbs []*agentpb.Mount) []specs.Mount {
	var mounts []specs.Mount
	for _, m := range pbs {
		mounts = append(mounts, specs.Mount{
			Destination: m.GetDestination(),
			Source:      m.GetSource(),
			Type:        m.GetType(),
			Options:     slices.Clone(m.GetOptions()),
		})
	}
	return mounts
}

func toHooks(pb *agentpb.Hooks) (*specs.Hooks, error) {
	if pb == nil {
		return nil, nil
	}
	hooks := &specs.Hooks{}
	for _, kind := range []struct {
		name string
		from []*agentpb.Hook
		to   *[]specs.Hook
	}{
		// The wire still has the kind that the specification calls deprecated.
		{"prestart", pb.GetPrestart(), &hooks.Prestart}, //nolint:staticcheck
		{"createRuntime", pb.GetCreateRuntime(), &hooks.CreateRuntime},
		{"createContainer", pb.GetCreateContainer(), &hooks.CreateContainer},
		{"startContainer", pb.GetStartContainer(), &hooks.StartContainer},
		{"poststart", pb.GetPoststart(), &hooks.Poststart},
		{"poststop", pb.GetPoststop(), &hooks.Poststop},
	} {
		for _, h := range kind.from {
			hook := specs.Hook{Path: h.GetPath(), Args: slices.Clone(h.GetArgs()), Env: slices.Clone(h.GetEnv())}
			if t := h.GetTimeout(); t != 0 {
				if t < 0 || t > math.MaxInt32 {
					return nil, fmt.Errorf("convert %s hook %q: timeout %d out of range", kind.name, h.GetPath(), t)
				}
				hook.Timeout = new(int(t))
			}
			*kind.to = append(*kind.to, hook)
		}
	}
	return hooks, nil
}

func toLinux(pb *agentpb.Linux) (*specs.Linux, error) {
	if pb == nil {
		return nil, nil
	}
	l := &specs.Linux{
		UIDMappings:       toMappings(pb.GetUIDMappings()),
		GIDMappings:       toMappings(pb.GetGIDMappings()),
		Sysctl:            copyMap(pb.GetSysctl()),
		CgroupsPath:       pb.GetCgroupsPath(),
		Devices:           toDevices(pb.GetDevices()),
		RootfsPropagation: pb.GetRootfsPropagation(),
		MaskedPaths:       slices.Clone(pb.GetMaskedPaths()),
		ReadonlyPaths:     slices.Clone(pb.GetReadonlyPaths()),
		MountLabel:        pb.GetMountLabel(),
	}
	for _, ns := range pb.GetNamespaces() {
		l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: namespaceType(ns.GetType()), Path: ns.GetPath()})
	}
	if schema := pb.GetIntelRdt().GetL3CacheSchema(); schema != "" {
		l.IntelRdt = &specs.LinuxIntelRdt{L3CacheSchema: schema}
	}
	var err error
	if l.Resources, err = ToResources(pb.GetResources()); err != nil {
		return nil, err
	}
	if l.Seccomp, err = toSeccomp(pb.GetSeccomp()); err != nil {
		return nil, err
	}
	return l, nil
}

// namespaceType accepts the short names that /proc/<pid>/ns uses beside those
// of the runtime specification.
func namespaceType(t string) specs.LinuxNamespaceType {
	switch t {
	case "net":
		return specs.NetworkNamespace
	case "mnt":
		return specs.MountNamespace
	}
	return specs.LinuxNamespaceType(t)
}

func toMappings(pbs []*agentpb.LinuxIDMapping) []specs.LinuxIDMapping {
	var ms []specs.LinuxIDMapping
	for _, m := range pbs {
		ms = append(ms, specs.LinuxIDMapping{ContainerID: m.GetContainerID(), HostID: m.GetHostID(), Size: m.GetSize()})
	}
	return ms
}

func toDevices(pbs []*agentpb.LinuxDevice) []specs.LinuxDevice {
	var ds []specs.LinuxDevice
	for _, d := range pbs {
		dev := specs.LinuxDevice{
			Path: d.GetPath(), Type: d.GetType(), Major: d.GetMajor(), Minor: d.GetMinor(),
			UID: nonZero(d.GetUID()), GID: nonZero(d.GetGID()),
		}
		if mode := d.GetFileMode(); mode != 0 {
			dev.FileMode = new(os.FileMode(mode))
		}
		ds = append(ds, dev)
	}
	return ds
}

// nonZero is the wire's rule: zero means unset.
func nonZero[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func copyMap(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	c := make(map[string]string, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}
