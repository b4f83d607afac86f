// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package ocipb

import (
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"

	"cocoon/internal/wire/agentpb"
)

// Version of the cgroup hierarchy that statistics were read from.
type Version int

// The two hierarchies. They count swap, cache and block I/O differently.
const (
	CgroupV1 Version = 1
	CgroupV2 Version = 2
)

// FromStats puts cgroup statistics into the form that a kata shim expects:
// times in nanoseconds, sizes in bytes, an absent limit as the largest uint64.
// network_stats stays empty; shims read the interfaces on the host. A nil
// input gives an empty response.
func FromStats(s *cgroups.Stats, v Version) *agentpb.StatsContainerResponse {
	if s == nil {
		return &agentpb.StatsContainerResponse{CgroupStats: &agentpb.CgroupStats{}}
	}
	hugetlb := make(map[string]*agentpb.HugetlbStats, len(s.HugetlbStats))
	for size, h := range s.HugetlbStats {
		hugetlb[size] = &agentpb.HugetlbStats{Usage: h.Usage, MaxUsage: h.MaxUsage, Failcnt: h.Failcnt}
	}
	return &agentpb.StatsContainerResponse{CgroupStats: &agentpb.CgroupStats{
		CpuStats:     fromCPU(&s.CpuStats),
		MemoryStats:  fromMemory(&s.MemoryStats, v),
		PidsStats:    &agentpb.PidsStats{Current: s.PidsStats.Current, Limit: s.PidsStats.Limit},
		BlkioStats:   fromBlkio(&s.BlkioStats, v),
		HugetlbStats: hugetlb,
	}}
}

func fromCPU(s *cgroups.CpuStats) *agentpb.CpuStats {
	return &agentpb.CpuStats{
		CpuUsage: &agentpb.CpuUsage{
			TotalUsage:        s.CpuUsage.TotalUsage,
			PercpuUsage:       slices.Clone(s.CpuUsage.PercpuUsage),
			UsageInKernelmode: s.CpuUsage.UsageInKernelmode,
			UsageInUsermode:   s.CpuUsage.UsageInUsermode,
		},
		ThrottlingData: &agentpb.ThrottlingData{
			Periods:          s.ThrottlingData.Periods,
			ThrottledPeriods: s.ThrottlingData.ThrottledPeriods,
			ThrottledTime:    s.ThrottlingData.ThrottledTime,
		},
	}
}

func fromMemory(s *cgroups.MemoryStats, v Version) *agentpb.MemoryStats {
	m := &agentpb.MemoryStats{
		Cache:        s.Cache,
		Usage:        fromMemoryData(s.Usage),
		SwapUsage:    fromMemoryData(s.SwapUsage),
		KernelUsage:  fromMemoryData(s.KernelUsage),
		UseHierarchy: s.UseHierarchy,
		Stats:        maps.Clone(s.Stats),
	}
	if v == CgroupV2 {
		// v2 counts swap alone where v1 counts memory plus swap, has no kernel
		// memory limit, and no switch for hierarchical accounting.
		m.SwapUsage = fromMemoryData(s.SwapOnlyUsage)
		m.KernelUsage = &agentpb.MemoryData{Limit: math.MaxUint64}
		m.UseHierarchy = false
	}
	return m
}

func fromMemoryData(d cgroups.MemoryData) *agentpb.MemoryData {
	return &agentpb.MemoryData{Usage: d.Usage, MaxUsage: d.MaxUsage, Failcnt: d.Failcnt, Limit: d.Limit}
}

func fromBlkio(s *cgroups.BlkioStats, v Version) *agentpb.BlkioStats {
	if v == CgroupV2 {
		// One table with the operations named as shims know them from v2.
		bytes := fromEntries(s.IoServiceBytesRecursive, strings.ToLower)
		ops := fromEntries(s.IoServicedRecursive, v2OperationName)
		return &agentpb.BlkioStats{IoServiceBytesRecursive: append(bytes, ops...)}
	}
	same := func(op string) string { return op }
	return &agentpb.BlkioStats{
		IoServiceBytesRecursive: fromEntries(s.IoServiceBytesRecursive, same),
		IoServicedRecursive:     fromEntries(s.IoServicedRecursive, same),
		IoQueuedRecursive:       fromEntries(s.IoQueuedRecursive, same),
		IoServiceTimeRecursive:  fromEntries(s.IoServiceTimeRecursive, same),
		IoWaitTimeRecursive:     fromEntries(s.IoWaitTimeRecursive, same),
		IoMergedRecursive:       fromEntries(s.IoMergedRecursive, same),
		IoTimeRecursive:         fromEntries(s.IoTimeRecursive, same),
		SectorsRecursive:        fromEntries(s.SectorsRecursive, same),
	}
}

func v2OperationName(op string) string {
	switch op {
	case "Read":
		return "rios"
	case "Write":
		return "wios"
	}
	return strings.ToLower(op)
}

func fromEntries(es []cgroups.BlkioStatEntry, name func(string) string) []*agentpb.BlkioStatsEntry {
	var out []*agentpb.BlkioStatsEntry
	for _, e := range es {
		out = append(out, &agentpb.BlkioStatsEntry{Major: e.Major, Minor: e.Minor, Op: name(e.Op), Value: e.Value})
	}
	return out
}
