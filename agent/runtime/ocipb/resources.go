// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package ocipb

import (
	"fmt"
	"math"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cocoon/internal/wire/agentpb"
)

// ToResources converts cgroup limits. Sizes are bytes, CPU times are
// microseconds. A nil message gives nil. A negative memory limit means
// unlimited and is kept.
func ToResources(pb *agentpb.LinuxResources) (*specs.LinuxResources, error) {
	if pb == nil {
		return nil, nil
	}
	r := &specs.LinuxResources{
		Devices: toDeviceRules(pb.GetDevices()),
		Memory:  toMemory(pb.GetMemory()),
		CPU:     toCPU(pb.GetCPU()),
	}
	if p := pb.GetPids(); p.GetLimit() != 0 {
		r.Pids = &specs.LinuxPids{Limit: new(p.GetLimit())}
	}
	for _, h := range pb.GetHugepageLimits() {
		r.HugepageLimits = append(r.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: h.GetPagesize(), Limit: h.GetLimit()})
	}
	if n := pb.GetNetwork(); n != nil {
		r.Network = &specs.LinuxNetwork{ClassID: nonZero(n.GetClassID())}
		for _, p := range n.GetPriorities() {
			r.Network.Priorities = append(r.Network.Priorities, specs.LinuxInterfacePriority{Name: p.GetName(), Priority: p.GetPriority()})
		}
	}
	var err error
	if r.BlockIO, err = toBlockIO(pb.GetBlockIO()); err != nil {
		return nil, err
	}
	return r, nil
}

func toMemory(m *agentpb.LinuxMemory) *specs.LinuxMemory {
	if m == nil {
		return nil
	}
	return &specs.LinuxMemory{
		Limit:            nonZero(m.GetLimit()),
		Reservation:      nonZero(m.GetReservation()),
		Swap:             nonZero(m.GetSwap()),
		Kernel:           nonZero(m.GetKernel()), //nolint:staticcheck // still on the wire
		KernelTCP:        nonZero(m.GetKernelTCP()),
		Swappiness:       nonZero(m.GetSwappiness()),
		DisableOOMKiller: nonZero(m.GetDisableOOMKiller()),
	}
}

func toCPU(c *agentpb.LinuxCPU) *specs.LinuxCPU {
	if c == nil {
		return nil
	}
	return &specs.LinuxCPU{
		Shares:          nonZero(c.GetShares()),
		Quota:           nonZero(c.GetQuota()),
		Period:          nonZero(c.GetPeriod()),
		RealtimeRuntime: nonZero(c.GetRealtimeRuntime()),
		RealtimePeriod:  nonZero(c.GetRealtimePeriod()),
		Cpus:            c.GetCpus(),
		Mems:            c.GetMems(),
	}
}

// toDeviceRules treats a zero major and a zero minor together as "any", as an
// absent number is. A zero minor below a real major is minor zero (the first
// disk of a driver): reading it as "any" would widen the rule.
func toDeviceRules(pbs []*agentpb.LinuxDeviceCgroup) []specs.LinuxDeviceCgroup {
	var rules []specs.LinuxDeviceCgroup
	for _, d := range pbs {
		rule := specs.LinuxDeviceCgroup{Allow: d.GetAllow(), Type: d.GetType(), Access: d.GetAccess()}
		unset := d.GetMajor() == 0 && d.GetMinor() == 0
		if !unset && d.GetMajor() >= 0 {
			rule.Major = new(d.GetMajor())
		}
		if !unset && d.GetMinor() >= 0 {
			rule.Minor = new(d.GetMinor())
		}
		rules = append(rules, rule)
	}
	return rules
}

func toBlockIO(b *agentpb.LinuxBlockIO) (*specs.LinuxBlockIO, error) {
	if b == nil {
		return nil, nil
	}
	weight, err := toWeight(b.GetWeight())
	if err != nil {
		return nil, err
	}
	leaf, err := toWeight(b.GetLeafWeight())
	if err != nil {
		return nil, err
	}
	out := &specs.LinuxBlockIO{
		Weight:                  weight,
		LeafWeight:              leaf,
		ThrottleReadBpsDevice:   toThrottles(b.GetThrottleReadBpsDevice()),
		ThrottleWriteBpsDevice:  toThrottles(b.GetThrottleWriteBpsDevice()),
		ThrottleReadIOPSDevice:  toThrottles(b.GetThrottleReadIOPSDevice()),
		ThrottleWriteIOPSDevice: toThrottles(b.GetThrottleWriteIOPSDevice()),
	}
	for _, d := range b.GetWeightDevice() {
		var wd specs.LinuxWeightDevice
		wd.Major, wd.Minor = d.GetMajor(), d.GetMinor()
		if wd.Weight, err = toWeight(d.GetWeight()); err != nil {
			return nil, err
		}
		if wd.LeafWeight, err = toWeight(d.GetLeafWeight()); err != nil {
			return nil, err
		}
		out.WeightDevice = append(out.WeightDevice, wd)
	}
	return out, nil
}

func toWeight(w uint32) (*uint16, error) {
	if w > math.MaxUint16 {
		return nil, fmt.Errorf("convert block I/O weight: %d out of range", w)
	}
	return nonZero(uint16(w)), nil
}

func toThrottles(pbs []*agentpb.LinuxThrottleDevice) []specs.LinuxThrottleDevice {
	var ts []specs.LinuxThrottleDevice
	for _, d := range pbs {
		t := specs.LinuxThrottleDevice{Rate: d.GetRate()}
		t.Major, t.Minor = d.GetMajor(), d.GetMinor()
		ts = append(ts, t)
	}
	return ts
}
