// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	selinux "github.com/opencontainers/selinux/go-selinux"
)

// hostFacts is what the specification is adapted to. The "host" of a container
// is the guest.
type hostFacts struct {
	cgroupV2    bool
	selinux     bool
	noPivotRoot bool
	// oomScoreAdj is the agent's own, which containers would inherit.
	oomScoreAdj int
}

func readHostFacts() (hostFacts, error) {
	noPivot, err := rootHasNoParent()
	if err != nil {
		return hostFacts{}, err
	}
	score, err := ownScore("/proc/self/oom_score_adj")
	if err != nil {
		return hostFacts{}, err
	}
	return hostFacts{
		oomScoreAdj: score,
		cgroupV2:    cgroups.IsCgroup2UnifiedMode(),
		selinux:     selinux.GetEnabled(),
		noPivotRoot: noPivot,
	}, nil
}

// settleBlkio has libcontainer find the names of its blkio files. It keeps them
// in a variable that all containers share, without a lock, and looks when it
// first sets the limits of one: two first containers at once would race. A
// guest has cgroup v2 only, where there are no such names.
var settleBlkio = sync.OnceValue(func() error {
	none := &cgroups.Resources{SkipDevices: true}
	m, err := fs.NewManager(&cgroups.Cgroup{Resources: none}, map[string]string{"blkio": "/sys/fs/cgroup/blkio"})
	if err == nil {
		err = m.Set(none)
	}
	if err != nil {
		return fmt.Errorf("look for blkio's files: %w", err)
	}
	return nil
})

func ownScore(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("read own out-of-memory score: %w", err)
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("parse own out-of-memory score: %w", err)
	}
	return score, nil
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

// executableAbove tells whether dir lies below the directory of the running
// executable and on the same file system. An overlay of the two, by which
// libcontainer protects the executable from the containers, is impossible then.
func executableAbove(dir string) (bool, error) {
	exe, err := os.Executable()
	if err != nil {
		return false, fmt.Errorf("find executable: %w", err)
	}
	return isAbove(filepath.Dir(exe), dir)
}

func isAbove(upper, lower string) (bool, error) {
	lower, err := filepath.EvalSymlinks(lower)
	if err != nil {
		return false, fmt.Errorf("resolve directory: %w", err)
	}
	rel, err := filepath.Rel(upper, lower)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return false, err
	}
	var a, b syscall.Stat_t
	if err := errors.Join(syscall.Stat(upper, &a), syscall.Stat(lower, &b)); err != nil {
		return false, fmt.Errorf("compare directories: %w", err)
	}
	return a.Dev == b.Dev, nil
}
