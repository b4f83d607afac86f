// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/cgroups"
	selinux "github.com/opencontainers/selinux/go-selinux"
)

// hostFacts is what the specification is adapted to. The "host" of a container
// is the guest.
type hostFacts struct {
	cgroupV2    bool
	selinux     bool
	noPivotRoot bool
}

func readHostFacts() (hostFacts, error) {
	noPivot, err := rootHasNoParent()
	if err != nil {
		return hostFacts{}, err
	}
	return hostFacts{
		cgroupV2:    cgroups.IsCgroup2UnifiedMode(),
		selinux:     selinux.GetEnabled(),
		noPivotRoot: noPivot,
	}, nil
}

// rootHasNoParent tells whether / is the kernel's initial rootfs itself, from
// which pivot_root is impossible. A bind mount of it, moved over /, also has
// the type rootfs but has a parent, and pivot_root works.
func rootHasNoParent() (bool, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter("/"))
	if err != nil {
		return false, fmt.Errorf("read mount table: %w", err)
	}
	if len(mounts) == 0 {
		return false, errors.New("read mount table: no entry for /")
	}
	return isInitialRoot(mounts[0]), nil
}

func isInitialRoot(m *mountinfo.Info) bool {
	return m.FSType == "rootfs" && m.ID == m.Parent
}
