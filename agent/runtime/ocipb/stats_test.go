// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package ocipb

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/cgroups"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"cocoon/internal/wire/agentpb"
)

func TestStatistics(t *testing.T) {
	t.Parallel()
	in := &cgroups.Stats{
		CpuStats: cgroups.CpuStats{
			CpuUsage:       cgroups.CpuUsage{TotalUsage: 1, PercpuUsage: []uint64{1, 2}, UsageInKernelmode: 3, UsageInUsermode: 4},
			ThrottlingData: cgroups.ThrottlingData{Periods: 5, ThrottledPeriods: 6, ThrottledTime: 7},
		},
		MemoryStats: cgroups.MemoryStats{
			Cache: 8, Usage: cgroups.MemoryData{Usage: 9, MaxUsage: 10, Failcnt: 11, Limit: math.MaxUint64},
			SwapUsage: cgroups.MemoryData{Usage: 12, Limit: 13}, SwapOnlyUsage: cgroups.MemoryData{Usage: 14, Limit: 15},
			KernelUsage: cgroups.MemoryData{Usage: 16, Limit: 17}, UseHierarchy: true,
			Stats: map[string]uint64{"inactive_file": 18},
		},
		PidsStats: cgroups.PidsStats{Current: 19, Limit: 20},
		BlkioStats: cgroups.BlkioStats{
			IoServiceBytesRecursive: []cgroups.BlkioStatEntry{{Major: 8, Minor: 1, Op: "Read", Value: 21}},
			IoServicedRecursive:     []cgroups.BlkioStatEntry{{Major: 8, Minor: 1, Op: "Write", Value: 22}, {Op: "Other"}},
			SectorsRecursive:        []cgroups.BlkioStatEntry{{Major: 8, Value: 23}},
		},
		HugetlbStats: map[string]cgroups.HugetlbStats{"2MB": {Usage: 24, MaxUsage: 25, Failcnt: 26}},
	}
	v1 := &agentpb.StatsContainerResponse{CgroupStats: &agentpb.CgroupStats{
		CpuStats: &agentpb.CpuStats{
			CpuUsage:       &agentpb.CpuUsage{TotalUsage: 1, PercpuUsage: []uint64{1, 2}, UsageInKernelmode: 3, UsageInUsermode: 4},
			ThrottlingData: &agentpb.ThrottlingData{Periods: 5, ThrottledPeriods: 6, ThrottledTime: 7},
		},
		MemoryStats: &agentpb.MemoryStats{
			Cache: 8, Usage: &agentpb.MemoryData{Usage: 9, MaxUsage: 10, Failcnt: 11, Limit: math.MaxUint64},
			SwapUsage:    &agentpb.MemoryData{Usage: 12, Limit: 13},
			KernelUsage:  &agentpb.MemoryData{Usage: 16, Limit: 17},
			UseHierarchy: true, Stats: map[string]uint64{"inactive_file": 18},
		},
		PidsStats: &agentpb.PidsStats{Current: 19, Limit: 20},
		BlkioStats: &agentpb.BlkioStats{
			IoServiceBytesRecursive: []*agentpb.BlkioStatsEntry{{Major: 8, Minor: 1, Op: "Read", Value: 21}},
			IoServicedRecursive:     []*agentpb.BlkioStatsEntry{{Major: 8, Minor: 1, Op: "Write", Value: 22}, {Op: "Other"}},
			SectorsRecursive:        []*agentpb.BlkioStatsEntry{{Major: 8, Value: 23}},
		},
		HugetlbStats: map[string]*agentpb.HugetlbStats{"2MB": {Usage: 24, MaxUsage: 25, Failcnt: 26}},
	}}
	v2 := proto.CloneOf(v1)
	m := v2.CgroupStats.MemoryStats
	m.SwapUsage = &agentpb.MemoryData{Usage: 14, Limit: 15}
	m.KernelUsage = &agentpb.MemoryData{Limit: math.MaxUint64}
	m.UseHierarchy = false
	v2.CgroupStats.BlkioStats = &agentpb.BlkioStats{IoServiceBytesRecursive: []*agentpb.BlkioStatsEntry{
		{Major: 8, Minor: 1, Op: "read", Value: 21}, {Major: 8, Minor: 1, Op: "wios", Value: 22}, {Op: "other"},
	}}
	for v, want := range map[Version]*agentpb.StatsContainerResponse{CgroupV1: v1, CgroupV2: v2} {
		if diff := cmp.Diff(want, FromStats(in, v), protocmp.Transform()); diff != "" {
			t.Errorf("version %d: %s", v, diff)
		}
	}
	if got := FromStats(nil, CgroupV2); got.GetCgroupStats() == nil {
		t.Error("no statistics at all")
	}
}
