// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestTheSpecificationIsEnforced runs one script per feature inside a
// container.
func TestTheSpecificationIsEnforced(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		edit   func(*specs.Spec)
		script string
		want   string // exact output
	}{
		{"seccomp", func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow,
				Syscalls: []specs.LinuxSyscall{{
					Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: new(uint(unix.EPERM)),
				}},
			}
		}, "mkdir /tmp/x 2>&1; grep Seccomp: /proc/self/status", "mkdir: can't create directory '/tmp/x': Operation not permitted\nSeccomp:\t2\n"},
		{"masked paths", func(s *specs.Spec) {
			s.Linux.MaskedPaths = []string{"/proc/kcore", "/masked", "/no/such"}
		}, "ls /masked; wc -c </etc/passwd >/dev/null; cat /proc/kcore; echo end", "end\n"},
		{"read-only paths", func(s *specs.Spec) {
			s.Linux.ReadonlyPaths = []string{"/proc/sys"}
		}, "echo 1 >/proc/sys/kernel/shmmni && echo written; touch /tmp/x && echo ok", "ok\n"},
		{"read-only root", func(s *specs.Spec) { s.Root.Readonly = true }, "touch /tmp/x || echo refused", "refused\n"},
		{"resource limits", func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 77, Hard: 99}}
		}, "ulimit -n; ulimit -Hn", "77\n99\n"},
		{"capabilities", nil, "grep Cap /proc/self/status | tail -n 2", "CapBnd:\t00000000000004e1\nCapAmb:\t0000000000000000\n"},
		{"user", func(s *specs.Spec) {
			s.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{5, 6}}
		}, "id; echo $HOME; echo x >/dev/stdout", "uid=1000(user) gid=1000 groups=5,6\n/home/user\nx\n"},
		{"no new privileges", func(s *specs.Spec) { s.Process.NoNewPrivileges = true }, "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n"},
		{"out-of-memory score", func(s *specs.Spec) { s.Process.OOMScoreAdj = new(500) }, "cat /proc/self/oom_score_adj", "500\n"},
		{"working directory", func(s *specs.Spec) { s.Process.Cwd = "/made/up" }, "pwd", "/made/up\n"},
		{"hostname", func(s *specs.Spec) { s.Hostname = "pod" }, "hostname", "pod\n"},
		{"malformed environment", func(s *specs.Spec) {
			s.Process.Env = append(s.Process.Env, "BROKEN", "=x", "GOOD=1")
		}, "echo $BROKEN$GOOD", "1\n"},
		{"denied devices", func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/given", Type: "c", Major: 1, Minor: 5}}
			s.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}}
			s.Process.Capabilities.Bounding = append([]string{"CAP_MKNOD"}, defaultCaps...)
			s.Process.Capabilities.Effective = s.Process.Capabilities.Bounding
			s.Process.Capabilities.Permitted = s.Process.Capabilities.Bounding
		}, "dd if=/dev/given bs=1 count=1 of=/dev/null 2>/dev/null && echo given; busybox mknod /dev/kmsg c 1 11 && dd if=/dev/kmsg bs=1 count=1 2>&1 | grep -o 'not permitted'", "given\nnot permitted\n"},
		{"AppArmor profile is dropped", func(s *specs.Spec) { s.Process.ApparmorProfile = "some-profile" }, "echo ran", "ran\n"},
		{"separate pids", nil, "echo $$", "1\n"},
		{"network parameter of a shared namespace", func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"net.no.such_parameter": "1"}
		}, "echo ran", "ran\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if out, _ := run(t, tc.edit, tc.script); out != tc.want {
				t.Errorf("output %q, want %q", out, tc.want)
			}
		})
	}
}

func TestNetworkParametersGoIntoTheNamespaceThatIsJoined(t *testing.T) {
	t.Parallel()
	needRoot(t)
	// The first container makes the namespace that the second one joins.
	first := running(t, func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}, "sleep", "1000")
	const name = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
	before, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	r := newTestRuntime(t)
	id := testID(t) + "-second"
	spec := testSpec(busyboxRoot(t), id, "cat", name)
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{
		Type: specs.NetworkNamespace, Path: "/proc/" + pidText(first) + "/ns/net",
	})
	spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "123"}
	c := created(t, r, spec)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := readAll(t, process(t, c, "").ReadStdout); out != "123\n" {
		t.Errorf("inside: %q", out)
	}
	if after, err := os.ReadFile(name); err != nil || string(after) != string(before) {
		t.Errorf("outside: %q was %q, %v", after, before, err)
	}
}

func TestLimitsAreSetAndUpdated(t *testing.T) {
	t.Parallel()
	r := newTestRuntime(t)
	if r.host.cgroupV2 && !hasController(t, "memory") {
		t.Skip("no memory controller in cgroup v2 here")
	}
	spec := testSpec(busyboxRoot(t), testID(t), "sleep", "1000")
	spec.Linux.Resources = &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: new(int64(64 << 20))},
		Pids:   &specs.LinuxPids{Limit: new(int64(20))},
	}
	c := created(t, r, spec)
	check := func(memory, pids uint64) {
		t.Helper()
		s, err := c.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.MemoryStats.Usage.Limit != memory || s.PidsStats.Limit != pids {
			t.Errorf("limits %d, %d, want %d, %d", s.MemoryStats.Usage.Limit, s.PidsStats.Limit, memory, pids)
		}
	}
	check(64<<20, 20)
	if err := c.Update(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if err := c.Update(t.Context(), &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(96 << 20))}}); err != nil {
		t.Fatal(err)
	}
	check(96<<20, 20)
	if err := c.Update(t.Context(), &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "nonsense"}}); err == nil {
		t.Error("an impossible limit was taken")
	}
	check(96<<20, 20)
}

func TestEveryOOMKillIsReported(t *testing.T) {
	t.Parallel()
	r := newTestRuntime(t)
	if r.host.cgroupV2 && !hasController(t, "memory") {
		t.Skip("no memory controller in cgroup v2 here")
	}
	spec := testSpec(busyboxRoot(t), testID(t), "sh", "-c",
		"while read x; do tail /dev/zero; done")
	spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(64 << 20)), Swap: new(int64(64 << 20))}}
	c := created(t, r, spec)
	events := c.OOM()
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx := limited(t)
	for i := range 2 {
		if _, err := process(t, c, "").Write(ctx, []byte("\n")); err != nil {
			t.Fatal(err)
		}
		select {
		case _, ok := <-events:
			if !ok {
				t.Fatal("the channel was closed")
			}
		case <-ctx.Done():
			t.Fatalf("no event %d", i)
		}
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range events { // ends only if it was closed
		t.Error("an event too many")
	}
	if _, ok := <-c.OOM(); ok {
		t.Error("an event after the end")
	}
}

func hasController(t *testing.T, name string) bool {
	t.Helper()
	list, err := cgroups.ReadFile("/sys/fs/cgroup", "cgroup.controllers")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(" "+list+" ", name)
}

func TestHooksRunInTheirPhases(t *testing.T) {
	t.Parallel()
	r := newTestRuntime(t)
	log := t.TempDir() + "/log"
	hook := func(name string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo " + name + " >>" + log}}}
	}
	spec := testSpec(busyboxRoot(t), testID(t), "sleep", "1000")
	spec.Hooks = &specs.Hooks{CreateRuntime: hook("createRuntime"), Poststart: hook("poststart"), Poststop: hook("poststop")}
	c := created(t, r, spec)
	check := func(want string) {
		t.Helper()
		if got, err := os.ReadFile(log); err != nil || string(got) != want {
			t.Errorf("hooks %q, want %q, %v", got, want, err)
		}
	}
	check("createRuntime\n")
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("createRuntime\npoststart\n")
	var wg sync.WaitGroup
	for range 3 { // however many delete it, the hooks run once
		wg.Go(func() {
			if err := c.Delete(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	check("createRuntime\npoststart\npoststop\n")
}

func TestAFailingPoststartHookKillsTheContainer(t *testing.T) {
	t.Parallel()
	r := newTestRuntime(t)
	spec := testSpec(busyboxRoot(t), testID(t), "sleep", "1000")
	spec.Hooks = &specs.Hooks{Poststart: []specs.Hook{{Path: "/bin/false"}}, Poststop: []specs.Hook{{Path: "/bin/false"}}}
	c := created(t, r, spec)
	if err := c.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "poststart") {
		t.Errorf("start: %v", err)
	}
	if code := waitCode(t, process(t, c, "")); code != 137 {
		t.Errorf("code %d", code)
	}
}

func TestASharedPidNamespaceIsJoined(t *testing.T) {
	t.Parallel()
	pause := running(t, nil, "sleep", "1000")
	r := newTestRuntime(t)
	id := testID(t) + "-second"
	spec := testSpec(busyboxRoot(t), id, "sh", "-c", "sleep 1000 & grep -a -c sleep /proc/1/cmdline; wait")
	spec.Linux.Namespaces[0].Path = "/proc/" + pidText(pause) + "/ns/pid"
	c := created(t, r, spec)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	readUntil(t, process(t, c, ""), "1\n")
	// No process of this one is the first of the pid namespace.
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if process(t, pause, "").exited() {
		t.Error("the other container's process was killed")
	}
}
