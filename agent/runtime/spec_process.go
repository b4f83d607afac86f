// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"fmt"
	"math"
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
// it brings none, which is how the Go shim sends it.
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
	return out, nil
}
