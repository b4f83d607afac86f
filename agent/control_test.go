// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"cocoon/internal/wire/agentpb"
)

// sysfs makes a directory with these files; a name that ends in a slash is a
// directory.
func sysfs(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		file := filepath.Join(root, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(file, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// machine is a sysfs with four processors, of which two are online, and three
// memory blocks, of which one is.
func machine(t *testing.T) string {
	t.Helper()
	return sysfs(t, map[string]string{
		"devices/system/cpu/cpu0/":              "", // cannot be taken offline
		"devices/system/cpu/cpu1/online":        "1\n",
		"devices/system/cpu/cpu2/online":        "0\n",
		"devices/system/cpu/cpu3/online":        "0\n",
		"devices/system/cpu/cpufreq/online":     "0\n",
		"devices/system/cpu/online":             "0-1\n",
		"devices/system/memory/memory0/online":  "1\n",
		"devices/system/memory/memory8/online":  "0\n",
		"devices/system/memory/memory16/online": "0\n",
		"devices/system/memory/probe":           "",
	})
}

// state reads an attribute of a fake sysfs.
func state(t *testing.T, sys, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(sys, "devices/system", name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func controlledService(t *testing.T, sys string) *service {
	t.Helper()
	d := Deps{Paths: PathsBelow(t.TempDir())}
	d.Paths.Sys = sys
	return &service{deps: d, sandbox: newSandbox(d)}
}

func TestPluggedProcessorsAndMemoryAreTakenIntoUse(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		req              *agentpb.OnlineCPUMemRequest
		cpu2, cpu3, mem8 string
	}{
		"nothing but memory":    {&agentpb.OnlineCPUMemRequest{}, "0", "0", "1"},
		"enough are online":     {&agentpb.OnlineCPUMemRequest{NbCpus: 2, CpuOnly: true}, "0", "0", "0"},
		"one is missing":        {&agentpb.OnlineCPUMemRequest{NbCpus: 3, CpuOnly: true, Wait: true}, "1", "0", "0"},
		"all, and memory":       {&agentpb.OnlineCPUMemRequest{NbCpus: 4}, "1", "1", "1"},
		"processors only, none": {&agentpb.OnlineCPUMemRequest{CpuOnly: true}, "0", "0", "0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sys := machine(t)
			if _, err := controlledService(t, sys).OnlineCPUMem(limited(t), tc.req); err != nil {
				t.Fatal(err)
			}
			got := [3]string{state(t, sys, "cpu/cpu2/online"), state(t, sys, "cpu/cpu3/online"), state(t, sys, "memory/memory8/online")}
			if got != [3]string{tc.cpu2, tc.cpu3, tc.mem8} {
				t.Errorf("state %q", got)
			}
			if s := state(t, sys, "cpu/cpufreq/online"); s != "0" {
				t.Errorf("what is no processor was set to %q", s)
			}
		})
	}
}

func TestProcessorsThatComeLateAreWaitedFor(t *testing.T) {
	t.Parallel()
	sys := machine(t)
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		wg.Go(func() {
			<-time.After(time.Second) // of the bubble's clock
			dir, made := filepath.Join(sys, "devices/system/cpu/cpu4"), filepath.Join(sys, "made")
			// It appears with its file.
			if err := errors.Join(os.Mkdir(made, 0o755), os.WriteFile(filepath.Join(made, "online"), []byte("0"), 0o600), os.Rename(made, dir)); err != nil {
				t.Error(err)
			}
		})
		began := time.Now()
		if err := onlineCPUs(t.Context(), filepath.Join(sys, "devices/system/cpu"), 5); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < time.Second || took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
		wg.Wait()
	})
	if got := state(t, sys, "cpu/cpu4/online"); got != "1" {
		t.Errorf("the late processor is %q", got)
	}
}

func TestProcessorsThatDoNotComeEndTheWait(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(machine(t), "devices/system/cpu")
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := onlineCPUs(t.Context(), dir, 5)
		if err == nil || !strings.Contains(err.Error(), "4 of 5 processors") || time.Since(began) != cpuTries*cpuPause {
			t.Errorf("error %v after %v", err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := onlineCPUs(ctx, dir, 5); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

func TestBrokenHotplugIsReported(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		files map[string]string
		req   proto.Message
		text  string
	}{
		"no processors":        {nil, &agentpb.OnlineCPUMemRequest{NbCpus: 1}, "list hot-pluggable devices"},
		"more than there are":  {nil, &agentpb.OnlineCPUMemRequest{NbCpus: maxCPUs + 1}, "8193 processors"},
		"most that fit":        {nil, &agentpb.OnlineCPUMemRequest{NbCpus: math.MaxUint32}, "processors: invalid request"},
		"memory is a file":     {map[string]string{"devices/system/memory": "x"}, &agentpb.OnlineCPUMemRequest{}, "list hot-pluggable devices"},
		"state is a directory": {map[string]string{"devices/system/memory/memory1/online/": ""}, &agentpb.OnlineCPUMemRequest{}, "directory"},
		"state without end": {
			map[string]string{"devices/system/memory/memory1/online": strings.Repeat("0", 1<<20)}, &agentpb.OnlineCPUMemRequest{}, "larger than allowed",
		},
		"no probe":           {nil, &agentpb.MemHotplugByProbeRequest{MemHotplugProbeAddr: []uint64{1}}, "no such file"},
		"too many addresses": {nil, &agentpb.MemHotplugByProbeRequest{MemHotplugProbeAddr: make([]uint64, maxProbes+1)}, "4097 memory addresses"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sys := sysfs(t, tc.files)
			s := controlledService(t, sys)
			var err error
			switch r := tc.req.(type) {
			case *agentpb.OnlineCPUMemRequest:
				_, err = s.OnlineCPUMem(limited(t), r)
			case *agentpb.MemHotplugByProbeRequest:
				_, err = s.MemHotplugByProbe(limited(t), r)
			}
			if err == nil || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("error %v, want %q", err, tc.text)
			}
			if _, err := os.Stat(filepath.Join(sys, "devices/system/memory/probe")); err == nil {
				t.Error("a file was made in sysfs")
			}
		})
	}
}

// stuck makes an attribute that reads 0 and refuses every write, also of root.
func stuck(t *testing.T, file string) {
	t.Helper()
	fd, err := unix.MemfdCreate("online", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "online")
	t.Cleanup(func() { _ = f.Close() })
	if _, err := f.WriteString("0"); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(file), os.Symlink("/proc/self/fd/"+strconv.Itoa(fd), file)); err != nil {
		t.Fatal(err)
	}
}

func TestADeviceThatStaysOfflineKeepsNoOtherFromUse(t *testing.T) {
	t.Parallel()
	sys := machine(t)
	stuck(t, filepath.Join(sys, "devices/system/memory/memory16/online"))
	stuck(t, filepath.Join(sys, "devices/system/cpu/cpu2/online"))
	s := controlledService(t, sys)
	_, err := s.OnlineCPUMem(limited(t), &agentpb.OnlineCPUMemRequest{})
	if err == nil || !strings.Contains(err.Error(), "1 memory blocks stay offline") || !errors.Is(err, unix.EPERM) {
		t.Errorf("error %v", err)
	}
	if got := state(t, sys, "memory/memory8/online"); got != "1" {
		t.Errorf("memory8 is %q", got)
	}
	if _, err := s.OnlineCPUMem(limited(t), &agentpb.OnlineCPUMemRequest{NbCpus: 3, CpuOnly: true}); err != nil {
		t.Errorf("another processor could have been taken: %v", err)
	}
	if got := state(t, sys, "cpu/cpu3/online"); got != "1" {
		t.Errorf("cpu3 is %q", got)
	}
	dir := filepath.Join(sys, "devices/system/cpu")
	synctest.Test(t, func(t *testing.T) {
		if err := onlineCPUs(t.Context(), dir, 4); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "3 of 4") {
			t.Errorf("error %v", err)
		}
	})
}

func TestMemoryIsProbedWhereTheHostSays(t *testing.T) {
	t.Parallel()
	sys := machine(t)
	g := newGuest(t, guestOptions{change: func(d *Deps) { d.Paths.Sys = sys }})
	if _, err := g.MemHotplugByProbe(limited(t), &agentpb.MemHotplugByProbeRequest{MemHotplugProbeAddr: []uint64{0x1_0abc_0000}}); err != nil {
		t.Fatal(err)
	}
	if got := state(t, sys, "memory/probe"); got != "0x10ABC0000" {
		t.Errorf("probed %q", got)
	}
	if _, err := g.MemHotplugByProbe(limited(t), &agentpb.MemHotplugByProbeRequest{}); err != nil {
		t.Errorf("no address: %v", err)
	}
}

func TestTheClockIsSetOnlyToATimeThatCanBe(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var set []unix.Timeval
	var fail error
	g := newGuest(t, guestOptions{change: func(d *Deps) {
		d.SetTime = func(tv *unix.Timeval) error {
			mu.Lock()
			defer mu.Unlock()
			set = append(set, *tv)
			return fail
		}
	}})
	for _, r := range []*agentpb.SetGuestDateTimeRequest{
		{}, {Sec: -1}, {Usec: 5}, {Sec: earliest - 1}, {Sec: latest}, {Sec: math.MaxInt64}, {Sec: math.MinInt64},
		{Sec: earliest, Usec: -1}, {Sec: earliest, Usec: 1e6}, {Sec: earliest, Usec: math.MaxInt64},
	} {
		_, err := g.SetGuestDateTime(limited(t), r)
		wantStatus(t, err, codes.InvalidArgument, "time of "+strconv.FormatInt(r.GetSec(), 10))
	}
	if len(set) != 0 {
		t.Errorf("the clock was set: %v", set)
	}
	if _, err := g.SetGuestDateTime(limited(t), &agentpb.SetGuestDateTimeRequest{Sec: earliest + 7, Usec: 999_999}); err != nil {
		t.Error(err)
	}
	if len(set) != 1 || set[0] != (unix.Timeval{Sec: earliest + 7, Usec: 999_999}) {
		t.Errorf("the clock was set to %v", set)
	}
	mu.Lock()
	fail = unix.EPERM
	mu.Unlock()
	_, err := g.SetGuestDateTime(limited(t), &agentpb.SetGuestDateTimeRequest{Sec: earliest})
	wantStatus(t, err, codes.Internal, "operation not permitted")
}

func TestAVolumeIsMeasured(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	volume := g.paths.Run + "/sandbox/storage/dm9s"
	if err := os.MkdirAll(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", volume, "tmpfs", 0, "size=1M,nr_inodes=100"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(volume, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	if err := os.WriteFile(volume+"/file", make([]byte, 256<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := g.GetVolumeStats(limited(t), &agentpb.VolumeStatsRequest{VolumeGuestPath: volume})
	if err != nil {
		t.Fatal(err)
	}
	want := &agentpb.VolumeStatsResponse{
		Usage: []*agentpb.VolumeUsage{
			{Unit: agentpb.VolumeUsage_BYTES, Total: 1 << 20, Used: 256 << 10, Available: 768 << 10},
			{Unit: agentpb.VolumeUsage_INODES, Total: 100, Used: 2, Available: 98},
		},
		VolumeCondition: &agentpb.VolumeCondition{Message: "OK"},
	}
	if !proto.Equal(r, want) {
		t.Errorf("got %v", r)
	}
}

func TestOnlyVolumesAreMeasured(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	if err := os.MkdirAll(g.paths.Run, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/proc/self", g.paths.Run+"/out"); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		volume string
		code   codes.Code
		text   string
	}{
		"none":            {"", codes.InvalidArgument, "not below the run directory"},
		"relative":        {"run/kata-containers/x", codes.InvalidArgument, "not below"},
		"root":            {"/", codes.InvalidArgument, "not below"},
		"elsewhere":       {"/etc", codes.InvalidArgument, "not below"},
		"the directory":   {g.paths.Run, codes.InvalidArgument, "not below"},
		"a neighbour":     {g.paths.Run + "x/y", codes.InvalidArgument, "not below"},
		"dots":            {g.paths.Run + "/../../../etc", codes.InvalidArgument, "not below"},
		"slash at end":    {g.paths.Run + "/x/", codes.InvalidArgument, "not below"},
		"not there":       {g.paths.Run + "/x", codes.Internal, "no such file"},
		"through a link":  {g.paths.Run + "/out/ns", codes.Internal, "no such file"},
		"zero byte":       {g.paths.Run + "/x\x00y", codes.Internal, "measure a volume"},
		"longer than can": {g.paths.Run + "/" + strings.Repeat("x/", 4096) + "x", codes.InvalidArgument, "not below"},
	} {
		_, err := g.GetVolumeStats(limited(t), &agentpb.VolumeStatsRequest{VolumeGuestPath: tc.volume})
		t.Log(name)
		wantStatus(t, err, tc.code, tc.text)
	}
}

func TestMetricsAreServed(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	for _, count := range []string{"1", "2"} {
		r, err := g.GetMetrics(limited(t), &agentpb.GetMetricsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{
			"# TYPE kata_agent_scrape_count counter\nkata_agent_scrape_count " + count + "\n",
			"# TYPE kata_guest_meminfo gauge\nkata_guest_meminfo{item=\"mem_total\"} ",
		} {
			if !strings.Contains(r.GetMetrics(), line) {
				t.Errorf("no %q in %q", line, r.GetMetrics())
			}
		}
	}
}
