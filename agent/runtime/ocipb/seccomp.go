// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package ocipb

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cocoon/internal/wire/agentpb"
)

// seccomp(2) filters look at the six arguments of a system call.
const maxSyscallArgs = 6

func toSeccomp(pb *agentpb.LinuxSeccomp) (*specs.LinuxSeccomp, error) {
	if pb == nil {
		return nil, nil
	}
	s := &specs.LinuxSeccomp{DefaultAction: specs.LinuxSeccompAction(pb.GetDefaultAction())}
	for _, a := range pb.GetArchitectures() {
		s.Architectures = append(s.Architectures, specs.Arch(a))
	}
	for _, f := range pb.GetFlags() {
		s.Flags = append(s.Flags, specs.LinuxSeccompFlag(f))
	}
	for _, c := range pb.GetSyscalls() {
		call := specs.LinuxSyscall{
			Names:  slices.Clone(c.GetNames()),
			Action: specs.LinuxSeccompAction(c.GetAction()),
		}
		// A oneof, so that errno 0 ("return success") can be told from unset.
		if e, ok := c.GetErrnoRet().(*agentpb.LinuxSyscall_Errnoret); ok && e != nil {
			call.ErrnoRet = new(uint(e.Errnoret))
		}
		for _, a := range c.GetArgs() {
			if a.GetIndex() >= maxSyscallArgs {
				return nil, fmt.Errorf("convert seccomp rule for %q: argument index %d out of range", call.Names, a.GetIndex())
			}
			call.Args = append(call.Args, specs.LinuxSeccompArg{
				Index: uint(a.GetIndex()), Value: a.GetValue(), ValueTwo: a.GetValueTwo(),
				Op: specs.LinuxSeccompOperator(a.GetOp()),
			})
		}
		s.Syscalls = append(s.Syscalls, call)
	}
	return s, nil
}
