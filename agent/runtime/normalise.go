// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// normalised is a specification that libcontainer can run, and what has to be
// done beside it.
type normalised struct {
	spec *specs.Spec
	// netSysctls are to be written once in the network namespace netNS, or in
	// the caller's own if netNS is empty.
	netSysctls map[string]string
	netNS      string
}

// normalise adapts a specification from the wire to libcontainer and to this
// guest. The argument is not changed. It is strict where leaving something out
// would weaken isolation: mount and pid namespaces must be there, the cgroup
// path must name a group of the container's own, a security label that cannot
// be enforced is an error. An AppArmor profile is dropped, as kata's agent
// does; guests have no AppArmor.
func normalise(req CreateRequest, host hostFacts) (*normalised, error) {
	if err := checkSpec(req.Spec); err != nil {
		return nil, err
	}
	spec := *req.Spec
	linux := *req.Spec.Linux
	spec.Linux = &linux
	out := &normalised{spec: &spec}
	var err error
	if spec.Process, err = normaliseProcess(req.Spec.Process, host); err != nil {
		return nil, err
	}
	if linux.MountLabel != "" && !host.selinux {
		return nil, refuse("mount label without SELinux")
	}
	if linux.CgroupsPath, err = cgroupPath(linux.CgroupsPath, req.ID); err != nil {
		return nil, err
	}
	if linux.Namespaces, err = namespaces(linux.Namespaces, host); err != nil {
		return nil, err
	}
	if !hasNew(linux.Namespaces, specs.UTSNamespace) {
		spec.Hostname, spec.Domainname = "", ""
	}
	spec.Mounts = absoluteSources(spec.Mounts, req.Bundle)
	linux.Resources = deviceRules(linux.Resources, linux.Devices)
	splitSysctls(out)
	return out, nil
}

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}

func checkSpec(spec *specs.Spec) error {
	switch {
	case spec == nil:
		return refuse("no specification")
	case spec.Process == nil:
		return refuse("no process")
	case spec.Root == nil || !filepath.IsAbs(spec.Root.Path) || filepath.Clean(spec.Root.Path) == "/":
		return refuse("root path is not absolute or is /")
	case spec.Linux == nil:
		return refuse("no Linux section")
	}
	return nil
}

// normaliseProcess returns a copy that is fit to run as a first or a further
// process.
func normaliseProcess(p *specs.Process, host hostFacts) (*specs.Process, error) {
	if p == nil {
		return nil, refuse("no process")
	}
	if len(p.Args) == 0 || p.Args[0] == "" {
		return nil, refuse("process without arguments")
	}
	if p.SelinuxLabel != "" && !host.selinux {
		return nil, refuse("process label without SELinux")
	}
	out := *p
	out.ApparmorProfile = ""
	if out.Cwd == "" {
		out.Cwd = "/"
	}
	if !path.IsAbs(out.Cwd) {
		return nil, refuse("working directory %q is not absolute", out.Cwd)
	}
	// A guest protects its agent from the out-of-memory killer; a workload that
	// inherited that would outlive the agent.
	if out.OOMScoreAdj == nil && host.oomScoreAdj < 0 {
		out.OOMScoreAdj = new(0)
	}
	out.Env = nil
	for _, e := range p.Env {
		if strings.ContainsRune(e, 0) {
			return nil, refuse("environment entry with a NUL byte")
		}
		// Images do carry entries without a name or a value.
		if strings.Index(e, "=") > 0 {
			out.Env = append(out.Env, e)
		}
	}
	return &out, nil
}

// cgroupPath makes an absolute path below the hierarchy's root. The systemd
// form slice:prefix:name becomes three directories.
func cgroupPath(p, id string) (string, error) {
	if p == "" {
		return "/" + id, nil
	}
	if strings.ContainsRune(p, 0) || len(p) > 4096 {
		return "", refuse("malformed cgroup path")
	}
	p = strings.ReplaceAll(p, ":", "/")
	if slices.Contains(strings.Split(p, "/"), "..") {
		return "", refuse("cgroup path %q leaves its hierarchy", p)
	}
	clean := path.Clean("/" + p)
	if clean == "/" {
		// The root group holds the guest's own processes.
		return "", refuse("cgroup path %q names the root group", p)
	}
	return clean, nil
}

// namespaces demands the two that no container may lack and gives each
// container its own view of the cgroup tree.
func namespaces(in []specs.LinuxNamespace, host hostFacts) ([]specs.LinuxNamespace, error) {
	var out []specs.LinuxNamespace
	for _, ns := range in {
		if ns.Type == specs.CgroupNamespace && host.cgroupV2 {
			continue
		}
		if ns.Path != "" && !filepath.IsAbs(ns.Path) {
			return nil, refuse("path %q of the %s namespace is not absolute", ns.Path, ns.Type)
		}
		out = append(out, ns)
	}
	if !hasNew(out, specs.MountNamespace) {
		return nil, refuse("no mount namespace of its own")
	}
	if !slices.ContainsFunc(out, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.PIDNamespace }) {
		return nil, refuse("no pid namespace")
	}
	if host.cgroupV2 {
		out = append(out, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return out, nil
}

func hasNew(list []specs.LinuxNamespace, t specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(list, func(ns specs.LinuxNamespace) bool { return ns.Type == t && ns.Path == "" })
}

// absoluteSources resolves relative sources of bind mounts against the bundle;
// libcontainer would take the agent's working directory.
func absoluteSources(in []specs.Mount, bundle string) []specs.Mount {
	out := slices.Clone(in)
	for i, m := range out {
		bind := m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
		if bind && !filepath.IsAbs(m.Source) {
			out[i].Source = filepath.Join(bundle, m.Source)
		}
	}
	return out
}

// splitSysctls takes net.* out of a specification whose container shares its
// network namespace: libcontainer would refuse them, and all containers of a
// pod send the same ones.
func splitSysctls(n *normalised) {
	linux := n.spec.Linux
	if hasNew(linux.Namespaces, specs.NetworkNamespace) {
		return
	}
	for _, ns := range linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			n.netNS = ns.Path
		}
	}
	rest := maps.Clone(linux.Sysctl)
	for k, v := range linux.Sysctl {
		if strings.HasPrefix(k, "net.") || strings.HasPrefix(k, "net/") {
			if n.netSysctls == nil {
				n.netSysctls = map[string]string{}
			}
			n.netSysctls[k] = v
			delete(rest, k)
		}
	}
	linux.Sysctl = rest
}
