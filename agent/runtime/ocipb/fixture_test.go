// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package ocipb

import (
	"math"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cocoon/internal/wire/agentpb"
)

func fullSpec() *agentpb.Spec {
	hook := []*agentpb.Hook{{Path: "/h", Args: []string{"h"}, Env: []string{"A=1"}, Timeout: 3}}
	throttle := []*agentpb.LinuxThrottleDevice{{Major: 8, Minor: 1, Rate: 9}}
	return &agentpb.Spec{
		Version: "1.1.0", Hostname: "pod", Annotations: map[string]string{"a": "b"},
		Root:   &agentpb.Root{Path: "/r", Readonly: true},
		Mounts: []*agentpb.Mount{{Destination: "/d", Source: "/s", Type: "bind", Options: []string{"rbind"}}},
		Process: &agentpb.Process{
			Terminal: true, ConsoleSize: &agentpb.Box{Height: 1, Width: 2},
			User: &agentpb.User{UID: 1, GID: math.MaxUint32, AdditionalGids: []uint32{3}, Username: "u"},
			Args: []string{"sh"}, Env: []string{"E=1"}, Cwd: "/", NoNewPrivileges: true,
			Capabilities: &agentpb.LinuxCapabilities{
				Bounding: []string{"B"}, Effective: []string{"E"}, Inheritable: []string{"I"}, Permitted: []string{"P"}, Ambient: []string{"A"},
			},
			Rlimits:         []*agentpb.POSIXRlimit{{Type: "RLIMIT_CORE", Hard: math.MaxUint64, Soft: 0}},
			ApparmorProfile: "aa", SelinuxLabel: "se", OOMScoreAdj: -998,
		},
		Hooks: &agentpb.Hooks{Prestart: hook, Poststart: hook, Poststop: hook, CreateRuntime: hook, CreateContainer: hook, StartContainer: hook},
		Linux: &agentpb.Linux{
			UIDMappings: []*agentpb.LinuxIDMapping{{HostID: 1, ContainerID: 2, Size: 3}},
			GIDMappings: []*agentpb.LinuxIDMapping{{HostID: 4, ContainerID: 5, Size: 6}},
			Sysctl:      map[string]string{"k": "v"}, CgroupsPath: "/cg", RootfsPropagation: "rslave",
			Namespaces: []*agentpb.LinuxNamespace{{Type: "pid"}, {Type: "net", Path: "/n"}, {Type: "mnt"}, {Type: "mount"}},
			Devices:    []*agentpb.LinuxDevice{{Path: "/dev/x", Type: "b", Major: 8, Minor: 1, FileMode: 0o660, UID: 1, GID: 2}},
			Seccomp: &agentpb.LinuxSeccomp{
				DefaultAction: "SCMP_ACT_ERRNO", Architectures: []string{"SCMP_ARCH_X86_64"}, Flags: []string{"SECCOMP_FILTER_FLAG_LOG"},
				Syscalls: []*agentpb.LinuxSyscall{{
					Names: []string{"mkdir"}, Action: "SCMP_ACT_ERRNO", ErrnoRet: &agentpb.LinuxSyscall_Errnoret{Errnoret: 1},
					Args: []*agentpb.LinuxSeccompArg{{Index: 5, Value: 1, ValueTwo: 2, Op: "SCMP_CMP_EQ"}},
				}},
			},
			MaskedPaths: []string{"/m"}, ReadonlyPaths: []string{"/ro"}, MountLabel: "ml",
			IntelRdt: &agentpb.LinuxIntelRdt{L3CacheSchema: "L3:0=f"},
			Resources: &agentpb.LinuxResources{
				Memory: &agentpb.LinuxMemory{
					Limit: -1, Reservation: 1, Swap: -1, Kernel: 2, KernelTCP: 3, Swappiness: 60, DisableOOMKiller: true,
				},
				CPU: &agentpb.LinuxCPU{
					Shares: 2, Quota: -1, Period: 100000, RealtimeRuntime: 4, RealtimePeriod: 5, Cpus: "0-1", Mems: "0",
				},
				Pids: &agentpb.LinuxPids{Limit: -1},
				BlockIO: &agentpb.LinuxBlockIO{
					Weight: 10, LeafWeight: 11, WeightDevice: []*agentpb.LinuxWeightDevice{{Major: 8, Minor: 1, Weight: 12, LeafWeight: 13}},
					ThrottleReadBpsDevice: throttle, ThrottleWriteBpsDevice: throttle,
					ThrottleReadIOPSDevice: throttle, ThrottleWriteIOPSDevice: throttle,
				},
				HugepageLimits: []*agentpb.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 0}},
				Network:        &agentpb.LinuxNetwork{ClassID: 14, Priorities: []*agentpb.LinuxInterfacePriority{{Name: "eth0", Priority: 15}}},
			},
		},
	}
}

func fullOCI() *specs.Spec {
	hook := []specs.Hook{{Path: "/h", Args: []string{"h"}, Env: []string{"A=1"}, Timeout: new(3)}}
	t := specs.LinuxThrottleDevice{Rate: 9}
	t.Major, t.Minor = 8, 1
	throttle := []specs.LinuxThrottleDevice{t}
	weight := specs.LinuxWeightDevice{Weight: new(uint16(12)), LeafWeight: new(uint16(13))}
	weight.Major, weight.Minor = 8, 1
	return &specs.Spec{
		Version: "1.1.0", Hostname: "pod", Annotations: map[string]string{"a": "b"},
		Root:   &specs.Root{Path: "/r", Readonly: true},
		Mounts: []specs.Mount{{Destination: "/d", Source: "/s", Type: "bind", Options: []string{"rbind"}}},
		Process: &specs.Process{
			Terminal: true, ConsoleSize: &specs.Box{Height: 1, Width: 2},
			User: specs.User{UID: 1, GID: math.MaxUint32, AdditionalGids: []uint32{3}, Username: "u"},
			Args: []string{"sh"}, Env: []string{"E=1"}, Cwd: "/", NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{
				Bounding: []string{"B"}, Effective: []string{"E"}, Inheritable: []string{"I"}, Permitted: []string{"P"}, Ambient: []string{"A"},
			},
			Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Hard: math.MaxUint64, Soft: 0}},
			ApparmorProfile: "aa", SelinuxLabel: "se", OOMScoreAdj: new(-998),
		},
		//nolint:staticcheck // peers still send the deprecated fields
		Hooks: &specs.Hooks{Prestart: hook, Poststart: hook, Poststop: hook, CreateRuntime: hook, CreateContainer: hook, StartContainer: hook},
		Linux: &specs.Linux{
			UIDMappings: []specs.LinuxIDMapping{{HostID: 1, ContainerID: 2, Size: 3}},
			GIDMappings: []specs.LinuxIDMapping{{HostID: 4, ContainerID: 5, Size: 6}},
			Sysctl:      map[string]string{"k": "v"}, CgroupsPath: "/cg", RootfsPropagation: "rslave",
			Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "network", Path: "/n"}, {Type: "mount"}, {Type: "mount"}},
			Devices: []specs.LinuxDevice{{
				Path: "/dev/x", Type: "b", Major: 8, Minor: 1,
				FileMode: new(os.FileMode(0o660)), UID: new(uint32(1)), GID: new(uint32(2)),
			}},
			Seccomp: &specs.LinuxSeccomp{
				DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64}, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog},
				Syscalls: []specs.LinuxSyscall{{
					Names: []string{"mkdir"}, Action: specs.ActErrno, ErrnoRet: new(uint(1)),
					Args: []specs.LinuxSeccompArg{{Index: 5, Value: 1, ValueTwo: 2, Op: specs.OpEqualTo}},
				}},
			},
			MaskedPaths: []string{"/m"}, ReadonlyPaths: []string{"/ro"}, MountLabel: "ml",
			IntelRdt: &specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f"},
			Resources: &specs.LinuxResources{
				Memory: &specs.LinuxMemory{
					Limit: new(int64(-1)), Reservation: new(int64(1)), Swap: new(int64(-1)), Kernel: new(int64(2)), //nolint:staticcheck // peers still send it
					KernelTCP: new(int64(3)), Swappiness: new(uint64(60)), DisableOOMKiller: new(true),
				},
				CPU: &specs.LinuxCPU{
					Shares: new(uint64(2)), Quota: new(int64(-1)), Period: new(uint64(100000)),
					RealtimeRuntime: new(int64(4)), RealtimePeriod: new(uint64(5)), Cpus: "0-1", Mems: "0",
				},
				Pids: &specs.LinuxPids{Limit: new(int64(-1))},
				BlockIO: &specs.LinuxBlockIO{
					Weight: new(uint16(10)), LeafWeight: new(uint16(11)), WeightDevice: []specs.LinuxWeightDevice{weight},
					ThrottleReadBpsDevice: throttle, ThrottleWriteBpsDevice: throttle,
					ThrottleReadIOPSDevice: throttle, ThrottleWriteIOPSDevice: throttle,
				},
				HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 0}},
				Network:        &specs.LinuxNetwork{ClassID: new(uint32(14)), Priorities: []specs.LinuxInterfacePriority{{Name: "eth0", Priority: 15}}},
			},
		},
	}
}
