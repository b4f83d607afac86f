// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package ocipb

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"cocoon/internal/wire/agentpb"
)

func TestAnAbsentMessageIsAnError(t *testing.T) {
	t.Parallel()
	if _, err := ToSpec(nil); !errors.Is(err, ErrNoSpec) {
		t.Errorf("no specification: %v", err)
	}
	if _, err := ToProcess(nil); !errors.Is(err, ErrNoProcess) {
		t.Errorf("no process: %v", err)
	}
}

func TestZeroOnTheWireIsUnset(t *testing.T) {
	t.Parallel()
	got, err := ToSpec(&agentpb.Spec{
		Process: &agentpb.Process{User: &agentpb.User{}, ConsoleSize: &agentpb.Box{Height: 5}},
		Hooks:   &agentpb.Hooks{Poststop: []*agentpb.Hook{{Path: "/h"}}},
		Linux: &agentpb.Linux{
			IntelRdt: &agentpb.LinuxIntelRdt{},
			Devices:  []*agentpb.LinuxDevice{{Path: "/dev/x", Type: "c"}},
			Resources: &agentpb.LinuxResources{
				Devices: []*agentpb.LinuxDeviceCgroup{{Access: "rwm"}},
				Memory:  &agentpb.LinuxMemory{}, CPU: &agentpb.LinuxCPU{}, Pids: &agentpb.LinuxPids{},
				BlockIO: &agentpb.LinuxBlockIO{WeightDevice: []*agentpb.LinuxWeightDevice{{Major: 8}}},
				Network: &agentpb.LinuxNetwork{},
			},
			Seccomp: &agentpb.LinuxSeccomp{Syscalls: []*agentpb.LinuxSyscall{{Names: []string{"mkdir"}}}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	weight := specs.LinuxWeightDevice{}
	weight.Major = 8
	want := &specs.Spec{
		Process: &specs.Process{},
		Hooks:   &specs.Hooks{Poststop: []specs.Hook{{Path: "/h"}}},
		Linux: &specs.Linux{
			Devices: []specs.LinuxDevice{{Path: "/dev/x", Type: "c"}},
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}},
				Memory:  &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{},
				BlockIO: &specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{weight}},
				Network: &specs.LinuxNetwork{},
			},
			Seccomp: &specs.LinuxSeccomp{Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}}}},
		},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(specs.LinuxWeightDevice{})); diff != "" {
		t.Error(diff)
	}
}

func TestEveryFieldArrives(t *testing.T) {
	t.Parallel()
	got, err := ToSpec(fullSpec())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fullOCI(), got, cmp.AllowUnexported(specs.LinuxWeightDevice{}, specs.LinuxThrottleDevice{})); diff != "" {
		t.Error(diff)
	}
}

func TestTheResultDoesNotAliasTheMessage(t *testing.T) {
	t.Parallel()
	pb := fullSpec()
	got, err := ToSpec(pb)
	if err != nil {
		t.Fatal(err)
	}
	pb.Process.Args[0] = "changed"
	pb.Annotations["a"] = "changed"
	pb.Linux.MaskedPaths[0] = "changed"
	if got.Process.Args[0] == "changed" || got.Annotations["a"] == "changed" || got.Linux.MaskedPaths[0] == "changed" {
		t.Error("the result changed with the message")
	}
}

func TestDeviceRulesAreNotWidened(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		major, minor int64
		wantMajor    *int64
		wantMinor    *int64
	}{
		{0, 0, nil, nil},
		{-1, -1, nil, nil},
		{8, -1, new(int64(8)), nil},
		{8, 0, new(int64(8)), new(int64(0))}, // the first disk, not all of them
		{0, 5, new(int64(0)), new(int64(5))},
	} {
		r, err := ToResources(&agentpb.LinuxResources{Devices: []*agentpb.LinuxDeviceCgroup{
			{Allow: true, Type: "b", Major: tc.major, Minor: tc.minor, Access: "r"},
		}})
		if err != nil {
			t.Fatal(err)
		}
		want := specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: tc.wantMajor, Minor: tc.wantMinor, Access: "r"}
		if diff := cmp.Diff(want, r.Devices[0]); diff != "" {
			t.Errorf("%d:%d: %s", tc.major, tc.minor, diff)
		}
	}
}

func TestNumbersThatDoNotFitAreRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		spec *agentpb.Spec
		text string
	}{
		"score too high": {&agentpb.Spec{Process: &agentpb.Process{OOMScoreAdj: 1001}}, "score"},
		"score too low":  {&agentpb.Spec{Process: &agentpb.Process{OOMScoreAdj: math.MinInt64}}, "score"},
		"hook before now": {&agentpb.Spec{Hooks: &agentpb.Hooks{
			Prestart: []*agentpb.Hook{{Path: "/h", Timeout: -1}}}}, `prestart hook "/h"`},
		"hook for ages": {&agentpb.Spec{Hooks: &agentpb.Hooks{
			Poststart: []*agentpb.Hook{{Path: "/h", Timeout: math.MaxInt64}}}}, "timeout"},
		"weight": {&agentpb.Spec{Linux: &agentpb.Linux{Resources: &agentpb.LinuxResources{
			BlockIO: &agentpb.LinuxBlockIO{Weight: 65536}}}}, "weight"},
		"leaf weight": {&agentpb.Spec{Linux: &agentpb.Linux{Resources: &agentpb.LinuxResources{
			BlockIO: &agentpb.LinuxBlockIO{LeafWeight: 65536}}}}, "weight"},
		"device weight": {&agentpb.Spec{Linux: &agentpb.Linux{Resources: &agentpb.LinuxResources{
			BlockIO: &agentpb.LinuxBlockIO{WeightDevice: []*agentpb.LinuxWeightDevice{{Weight: 65536}}}}}}, "weight"},
		"device leaf weight": {&agentpb.Spec{Linux: &agentpb.Linux{Resources: &agentpb.LinuxResources{
			BlockIO: &agentpb.LinuxBlockIO{WeightDevice: []*agentpb.LinuxWeightDevice{{LeafWeight: 65536}}}}}}, "weight"},
		"system call argument": {&agentpb.Spec{Linux: &agentpb.Linux{Seccomp: &agentpb.LinuxSeccomp{
			Syscalls: []*agentpb.LinuxSyscall{{Args: []*agentpb.LinuxSeccompArg{{Index: 6}}}}}}}, "argument index 6"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec, err := ToSpec(tc.spec)
			if err == nil || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("error %v", err)
			}
			if spec != nil {
				t.Error("a result beside the error")
			}
		})
	}
}

func TestAnErrnoOfZeroIsNotUnset(t *testing.T) {
	t.Parallel()
	s, err := toSeccomp(&agentpb.LinuxSeccomp{Syscalls: []*agentpb.LinuxSyscall{
		{ErrnoRet: &agentpb.LinuxSyscall_Errnoret{Errnoret: 0}}, {},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if e := s.Syscalls[0].ErrnoRet; e == nil || *e != 0 {
		t.Errorf("errno 0 became %v", e)
	}
	if e := s.Syscalls[1].ErrnoRet; e != nil {
		t.Errorf("unset errno became %d", *e)
	}
}

func FuzzToSpec(f *testing.F) {
	seed, err := proto.Marshal(fullSpec())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte{})
	f.Add([]byte{0x42, 0x02, 0x42, 0x00}) // an empty seccomp section
	f.Fuzz(func(t *testing.T, data []byte) {
		var pb agentpb.Spec
		if proto.Unmarshal(data, &pb) != nil {
			return
		}
		before := proto.Clone(&pb)
		spec, err := ToSpec(&pb)
		if (spec == nil) != (err != nil) {
			t.Fatalf("specification %v with error %v", spec, err)
		}
		if !proto.Equal(before, &pb) {
			t.Fatal("the message was changed")
		}
	})
}
