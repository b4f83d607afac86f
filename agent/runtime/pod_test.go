// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cocoon/agent/runtime/ocipb"
	"cocoon/internal/wire/agentpb"
)

// podSpec is the shape in which a shim sends what containerd's CRI plugin
// makes for a container of a pod: no capabilities beyond the usual set, no
// device rules, namespaces without paths except those of the sandbox.
func podSpec(root, id, pausePID string) *agentpb.Spec {
	option := func(s string) []string { return strings.Fields(s) }
	ns := "/proc/" + pausePID + "/ns/"
	return &agentpb.Spec{
		Version: "1.1.0", Hostname: "ignored",
		Root: &agentpb.Root{Path: root},
		Process: &agentpb.Process{
			User: &agentpb.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{1000}},
			Args: []string{"sh"}, Cwd: "/", Env: []string{"PATH=/usr/bin:/bin"},
			Capabilities: &agentpb.LinuxCapabilities{Bounding: defaultCaps, Effective: defaultCaps, Permitted: defaultCaps},
			OOMScoreAdj:  1000, NoNewPrivileges: true, ApparmorProfile: "cri-containerd.apparmor.d",
		},
		Mounts: []*agentpb.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: option("nosuid noexec nodev")},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: option("nosuid strictatime mode=755 size=65536k")},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: option("nosuid noexec newinstance ptmxmode=0666 mode=0620 gid=5")},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: option("nosuid noexec nodev")},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: option("nosuid noexec nodev mode=1777 size=67108864")},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: option("nosuid noexec nodev ro")},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: option("nosuid noexec nodev relatime ro")},
		},
		Annotations: map[string]string{"io.kubernetes.cri.container-type": "container", "bundle": "forged"},
		Linux: &agentpb.Linux{
			Resources:   &agentpb.LinuxResources{CPU: &agentpb.LinuxCPU{Shares: 1024}},
			CgroupsPath: cgroupParent() + ":cri:" + id,
			Namespaces: []*agentpb.LinuxNamespace{
				{Type: "pid"}, {Type: "mount"}, {Type: "ipc", Path: ns + "ipc"}, {Type: "uts", Path: ns + "uts"}, {Type: "network", Path: ns + "net"},
			},
			MaskedPaths:   []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			Sysctl: map[string]string{
				"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647",
			},
		},
	}
}

func TestAPodContainerRunsAsAShimSendsIt(t *testing.T) {
	t.Parallel()
	pause := running(t, func(s *specs.Spec) {
		s.Hostname = "sandbox"
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}, "sleep", "1000")
	r := newTestRuntime(t)
	id := testID(t) + "-app"
	pb := podSpec(busyboxRoot(t), id, pidText(pause))
	pb.Process.Args = []string{"sh", "-c",
		"hostname; cat /proc/sys/net/ipv4/ping_group_range /proc/self/oom_score_adj; id -u; touch /sys/x || touch /sys/fs/cgroup/x || touch /proc/sys/x || echo read-only; echo end"}
	if r.host.cgroupV2 && !hasController(t, "cpu") {
		pb.Linux.Resources = nil
	}
	spec, err := ocipb.ToSpec(pb)
	if err != nil {
		t.Fatal(err)
	}
	c := created(t, r, spec)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := process(t, c, "")
	want := "sandbox\n0\t2147483647\n1000\n1000\nread-only\nend\n"
	if out := readAll(t, p.ReadStdout); out != want {
		t.Errorf("output %q, want %q; stderr %q", out, want, readAll(t, p.ReadStderr))
	}
	if code := waitCode(t, p); code != 0 {
		t.Errorf("code %d", code)
	}
	stats, err := c.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	version := ocipb.CgroupV1
	if c.CgroupV2() {
		version = ocipb.CgroupV2
	}
	if ocipb.FromStats(stats, version).GetCgroupStats().GetCpuStats().GetCpuUsage().GetTotalUsage() == 0 {
		t.Error("no CPU time in the statistics")
	}
	state, err := c.lc.OCIState()
	if err != nil {
		t.Fatal(err)
	}
	if state.Bundle != "/" {
		t.Errorf("hooks are told the bundle %q", state.Bundle)
	}
}
