// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

func TestTheOOMCounterOfCgroupV2IsFollowed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "memory.events")
	write(t, file, "low 0\noom 0\noom_kill 2\noom_group_kill 0\n", 0o644)
	source, err := openMemoryEvents(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	w := &oomWatch{events: make(chan struct{}), quit: make(chan struct{})}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.follow(source, file, 2); err != nil {
			t.Error(err)
		}
	})
	// Rewritten in place, so that no reader ever sees an empty file.
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("low 1"), 0); err != nil { // no kill
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("low 1\noom 0\noom_kill 4"), 0); err != nil {
		t.Fatal(err)
	}
	<-w.events
	<-w.events
	w.stop()
	w.stop()
	if err := source.SetReadDeadline(past); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

func TestAnOOMWatchNeedsItsFiles(t *testing.T) {
	t.Parallel()
	for name, files := range map[string][]string{
		"none":             nil,
		"no counter":       {"memory.events\nlow 0\n", "memory.oom_control\nunder_oom 0\n"},
		"odd counter":      {"memory.events\noom_kill x\n", "memory.oom_control\noom_kill -1\n"},
		"no event control": {"memory.oom_control\noom_kill 0\n"},
	} {
		dir := t.TempDir()
		for _, f := range files {
			base, data, _ := strings.Cut(f, "\n")
			write(t, filepath.Join(dir, base), data, 0o644)
		}
		for _, v2 := range []bool{true, false} {
			w := &oomWatch{events: make(chan struct{}), quit: make(chan struct{})}
			if err := w.run(dir, v2); err == nil {
				t.Errorf("%s, v2 %v: no error", name, v2)
			}
		}
	}
	w := &oomWatch{events: make(chan struct{}), quit: make(chan struct{})}
	if err := w.run("", true); err == nil {
		t.Error("no error without a memory controller")
	}
}

func TestSignalDispositions(t *testing.T) {
	t.Parallel()
	const term = "0000000000004000"
	for _, tc := range []struct {
		status string
		want   bool
	}{
		{"SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n", false},
		{"SigBlk:\t" + term + "\n", true},
		{"SigIgn:\t" + term + "\n", true},
		{"SigCgt:\t" + term + "\n", true},
		{"SigQ:\t" + term + "\n", false},
		{"SigCgt:\tffffffffffffbfff\n", false},
		{"SigCgt:\tnonsense\n", true},
		{"", false},
	} {
		if got := statusHandles([]byte(tc.status), unix.SIGTERM); got != tc.want {
			t.Errorf("%q: %v", tc.status, got)
		}
	}
	if !handlesSignal(-1, unix.SIGTERM) {
		t.Error("an unreadable status counts as unhandled")
	}
}

func TestAnImpossibleSignalIsRefused(t *testing.T) {
	t.Parallel()
	c := &Container{id: "c1"}
	for _, sig := range []unix.Signal{-1, 65, 1 << 20} {
		if err := c.Signal(t.Context(), "", sig); err == nil {
			t.Errorf("signal %d was taken", int(sig))
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{
		"relative directory": {StateDir: "state"},
		"negative pipe":      {StateDir: t.TempDir(), PipeSize: -1},
		"not a directory":    {StateDir: "/proc/self/status/x"},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestIDs(t *testing.T) {
	t.Parallel()
	for id, ok := range map[string]bool{
		"ab": true, "a1_.-": true, "0f": true, strings.Repeat("a", 255): true,
		"": false, "a": false, ".a": false, "..": false, "a/b": false, "a b": false, "a\n": false, "-a": false,
		"a+b": false, "a\x00": false, "é1": false, strings.Repeat("a", 256): false,
	} {
		if err := checkID(id); (err == nil) != ok {
			t.Errorf("%q: %v", id, err)
		}
		if err := checkExecID(id); (err == nil) != (ok || id == "a") {
			t.Errorf("exec id %q: %v", id, err)
		}
	}
}

func TestAStateDirectoryBelowTheExecutableIsNoticed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sub := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(sub, link); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		upper, lower string
		want         bool
	}{
		{dir, sub, true},
		{dir, dir, true},
		{dir, link, true},
		{sub, dir, false},
		{filepath.Join(dir, "a"), t.TempDir(), false},
		{"/", "/proc", false}, // another file system
	} {
		if got, err := isAbove(tc.upper, tc.lower); err != nil || got != tc.want {
			t.Errorf("%s above %s: %v, %v", tc.upper, tc.lower, got, err)
		}
	}
	if _, err := isAbove(dir, filepath.Join(dir, "none")); err == nil {
		t.Error("a directory that does not exist passed")
	}
}

// Each limit that a request can set is taken over, and stays when a later one
// does not name it.
func TestAnUpdateTakesEachLimitOver(t *testing.T) {
	t.Parallel()
	one, two := uint64(1), int64(2)
	set := cgroups.Resources{
		Memory: 1, MemoryReservation: 1, MemorySwap: 1, CpuShares: 1, CpuQuota: 1, CpuBurst: &one, CpuPeriod: 1, CpuRtRuntime: 1, CpuRtPeriod: 1,
		CpusetCpus: "0", CpusetMems: "0", CPUIdle: &two, PidsLimit: &two, BlkioWeight: 10, BlkioLeafWeight: 10,
		BlkioWeightDevice:            []*cgroups.WeightDevice{{Weight: 10}},
		BlkioThrottleReadBpsDevice:   []*cgroups.ThrottleDevice{{Rate: 1}},
		BlkioThrottleWriteBpsDevice:  []*cgroups.ThrottleDevice{{Rate: 2}},
		BlkioThrottleReadIOPSDevice:  []*cgroups.ThrottleDevice{{Rate: 3}},
		BlkioThrottleWriteIOPSDevice: []*cgroups.ThrottleDevice{{Rate: 4}},
		HugetlbLimit:                 []*cgroups.HugepageLimit{{Pagesize: "2MB", Limit: 1}}, OomKillDisable: true, MemorySwappiness: &one,
		CpuWeight: 1, Unified: map[string]string{"memory.high": "1"}, MemoryCheckBeforeUpdate: true,
	}
	got := merge(cgroups.Resources{}, &set)
	if !reflect.DeepEqual(got, set) {
		t.Errorf("taken over: %+v", got)
	}
	if got = merge(set, &cgroups.Resources{}); !reflect.DeepEqual(got, set) {
		t.Errorf("kept: %+v", got)
	}
	if got = merge(set, &cgroups.Resources{Memory: 5}); got.Memory != 5 || got.CpuShares != 1 {
		t.Errorf("one of them: %+v", got)
	}
}
