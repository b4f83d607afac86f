// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// newProcess converts a normalised process to libcontainer's form.
func newProcess(p *specs.Process) (*libcontainer.Process, error) {
	lp := &libcontainer.Process{
		Args:            p.Args,
		Env:             p.Env,
		UID:             int(p.User.UID),
		GID:             int(p.User.GID),
		Cwd:             p.Cwd,
		Label:           p.SelinuxLabel,
		NoNewPrivileges: new(p.NoNewPrivileges),
	}
	for _, g := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(g))
	}
	if caps := p.Capabilities; caps != nil {
		lp.Capabilities = &configs.Capabilities{
			Bounding: caps.Bounding, Effective: caps.Effective, Inheritable: caps.Inheritable,
			Permitted: caps.Permitted, Ambient: caps.Ambient,
		}
	}
	if size := p.ConsoleSize; size != nil {
		if size.Height > math.MaxUint16 || size.Width > math.MaxUint16 {
			return nil, refuse("console of %d by %d characters", size.Height, size.Width)
		}
		lp.ConsoleHeight, lp.ConsoleWidth = uint16(size.Height), uint16(size.Width)
	}
	var err error
	lp.Rlimits, err = rlimits(p.Rlimits)
	return lp, err
}

func rlimits(in []specs.POSIXRlimit) ([]configs.Rlimit, error) {
	var out []configs.Rlimit
	seen := map[int]bool{}
	for _, rl := range in {
		resource, ok := rlimitResource(rl.Type)
		switch {
		case !ok:
			return nil, refuse("unknown resource limit %q", rl.Type)
		case seen[resource]:
			return nil, refuse("resource limit %q given twice", rl.Type)
		case rl.Soft > rl.Hard:
			return nil, refuse("resource limit %q: soft limit above hard limit", rl.Type)
		}
		seen[resource] = true
		out = append(out, configs.Rlimit{Type: resource, Hard: rl.Hard, Soft: rl.Soft})
	}
	return out, nil
}

// rlimitResource gives the number of a limit, see getrlimit(2).
func rlimitResource(name string) (int, bool) {
	short, ok := strings.CutPrefix(name, "RLIMIT_")
	if !ok {
		return 0, false
	}
	for _, r := range []struct {
		name   string
		number int
	}{
		{"CPU", unix.RLIMIT_CPU}, {"FSIZE", unix.RLIMIT_FSIZE}, {"DATA", unix.RLIMIT_DATA},
		{"STACK", unix.RLIMIT_STACK}, {"CORE", unix.RLIMIT_CORE}, {"RSS", unix.RLIMIT_RSS},
		{"NPROC", unix.RLIMIT_NPROC}, {"NOFILE", unix.RLIMIT_NOFILE}, {"MEMLOCK", unix.RLIMIT_MEMLOCK},
		{"AS", unix.RLIMIT_AS}, {"LOCKS", unix.RLIMIT_LOCKS}, {"SIGPENDING", unix.RLIMIT_SIGPENDING},
		{"MSGQUEUE", unix.RLIMIT_MSGQUEUE}, {"NICE", unix.RLIMIT_NICE}, {"RTPRIO", unix.RLIMIT_RTPRIO},
		{"RTTIME", unix.RLIMIT_RTTIME},
	} {
		if r.name == short {
			return r.number, true
		}
	}
	return 0, false
}

// execProcess gives a further process the capabilities of the first one when
// it brings none, which is how the Go shim sends it. It cannot have one that the
// first process could never have: the container would be another one than
// policy has judged when it was made.
func (c *Container) execProcess(p *specs.Process) (*specs.Process, error) {
	out, err := normaliseProcess(p, c.host)
	if err != nil {
		return nil, err
	}
	if out.Capabilities == nil {
		if c.caps == nil {
			return nil, fmt.Errorf("process %q: %w", out.Args[0], ErrNoCapabilities)
		}
		out.Capabilities = c.caps
	}
	if extra := capabilityBeyond(c.caps, out.Capabilities); extra != "" {
		return nil, refuse("capability %.64q is not in the container's bounding set", extra)
	}
	return out, nil
}

// capabilityBeyond returns a capability in any set of p that is not in the
// bounding set of the container, or "".
func capabilityBeyond(container, p *specs.LinuxCapabilities) string {
	var bound []string
	if container != nil {
		bound = container.Bounding
	}
	for _, set := range [][]string{p.Bounding, p.Effective, p.Inheritable, p.Permitted, p.Ambient} {
		for _, name := range set {
			if !slices.Contains(bound, name) {
				return name
			}
		}
	}
	return ""
}
