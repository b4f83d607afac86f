// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func pureSpec() *specs.Spec { return testSpec("/rootfs", "c1", "true") }

func TestASpecificationThatWeakensIsolationIsRefused(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(*specs.Spec){
		"no process":            func(s *specs.Spec) { s.Process = nil },
		"no arguments":          func(s *specs.Spec) { s.Process.Args = nil },
		"empty program":         func(s *specs.Spec) { s.Process.Args[0] = "" },
		"relative directory":    func(s *specs.Spec) { s.Process.Cwd = "tmp" },
		"NUL in environment":    func(s *specs.Spec) { s.Process.Env = []string{"A=\x00"} },
		"no root":               func(s *specs.Spec) { s.Root = nil },
		"relative root":         func(s *specs.Spec) { s.Root.Path = "rootfs" },
		"the guest's root":      func(s *specs.Spec) { s.Root.Path = "/x/.." },
		"no Linux section":      func(s *specs.Spec) { s.Linux = nil },
		"process label":         func(s *specs.Spec) { s.Process.SelinuxLabel = "l" },
		"mount label":           func(s *specs.Spec) { s.Linux.MountLabel = "l" },
		"no namespaces":         func(s *specs.Spec) { s.Linux.Namespaces = nil },
		"no mount namespace":    func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[:1] },
		"no pid namespace":      func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] },
		"joined mounts":         func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/proc/1/ns/mnt" },
		"relative namespace":    func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "proc/1/ns/pid" },
		"parent cgroup":         func(s *specs.Spec) { s.Linux.CgroupsPath = "/a/../../b" },
		"parent cgroup, colons": func(s *specs.Spec) { s.Linux.CgroupsPath = "a:..:b" },
		"root cgroup":           func(s *specs.Spec) { s.Linux.CgroupsPath = "/" },
		"root cgroup, colons":   func(s *specs.Spec) { s.Linux.CgroupsPath = "::" },
		"root cgroup, dots":     func(s *specs.Spec) { s.Linux.CgroupsPath = "/./" },
		"NUL in cgroup":         func(s *specs.Spec) { s.Linux.CgroupsPath = "a\x00b" },
		"endless cgroup":        func(s *specs.Spec) { s.Linux.CgroupsPath = strings.Repeat("a/", 4000) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := pureSpec()
			edit(spec)
			if _, err := normalise(CreateRequest{ID: "c1", Spec: spec}, hostFacts{cgroupV2: true}); !errors.Is(err, ErrRefused) {
				t.Errorf("error %v", err)
			}
		})
	}
	if _, err := normalise(CreateRequest{ID: "c1"}, hostFacts{}); !errors.Is(err, ErrRefused) {
		t.Errorf("no specification: %v", err)
	}
}

func TestCgroupPathsLieBelowTheRoot(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                                  "/c1",
		"/kubepods/burstable/pod1/c1":       "/kubepods/burstable/pod1/c1",
		"kubepods/c1":                       "/kubepods/c1",
		"kubepods-x.slice:cri-containerd:c": "/kubepods-x.slice/cri-containerd/c",
		"//a//b/":                           "/a/b",
	} {
		if got, err := cgroupPath(in, "c1"); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}

func TestNormaliseDoesNotChangeItsArgument(t *testing.T) {
	t.Parallel()
	spec := pureSpec()
	spec.Hostname = "h"
	spec.Process.ApparmorProfile = "p"
	spec.Linux.Namespaces[3].Path = "/run/uts"
	spec.Linux.Sysctl = map[string]string{"net.a": "1", "kernel.sem": "2"}
	spec.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}}
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/d", Source: "rel", Type: "bind"})
	before, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	n, err := normalise(CreateRequest{ID: "c1", Bundle: "/b", Spec: spec}, hostFacts{cgroupV2: true})
	if err != nil {
		t.Fatal(err)
	}
	if after, err := json.Marshal(spec); err != nil || string(after) != string(before) {
		t.Errorf("changed from %s to %s, %v", before, after, err)
	}
	if n.spec.Hostname != "" || n.spec.Process.ApparmorProfile != "" {
		t.Errorf("hostname %q, profile %q", n.spec.Hostname, n.spec.Process.ApparmorProfile)
	}
	if src := n.spec.Mounts[len(n.spec.Mounts)-1].Source; src != "/b/rel" {
		t.Errorf("bind source %q", src)
	}
	if diff := cmp.Diff(map[string]string{"kernel.sem": "2"}, n.spec.Linux.Sysctl); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"net.a": "1"}, n.netSysctls); diff != "" || n.netNS != "" {
		t.Error(diff, n.netNS)
	}
}

func TestEveryContainerGetsItsOwnCgroupNamespace(t *testing.T) {
	t.Parallel()
	spec := pureSpec()
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace, Path: "/proc/1/ns/cgroup"})
	n, err := normalise(CreateRequest{ID: "c1", Spec: spec}, hostFacts{cgroupV2: true})
	if err != nil {
		t.Fatal(err)
	}
	if !hasNew(n.spec.Linux.Namespaces, specs.CgroupNamespace) || len(n.spec.Linux.Namespaces) != 5 {
		t.Errorf("namespaces %v", n.spec.Linux.Namespaces)
	}
}

func TestLabelsAreKeptWhereTheyCanBeEnforced(t *testing.T) {
	t.Parallel()
	spec := pureSpec()
	spec.Process.SelinuxLabel, spec.Linux.MountLabel = "p", "m"
	n, err := normalise(CreateRequest{ID: "c1", Spec: spec}, hostFacts{selinux: true})
	if err != nil || n.spec.Process.SelinuxLabel != "p" || n.spec.Linux.MountLabel != "m" {
		t.Errorf("%v", err)
	}
}

func TestNetworkParametersStayWithANewNamespace(t *testing.T) {
	t.Parallel()
	for path, split := range map[string]bool{"": false, "/run/netns/pod": true} {
		spec := pureSpec()
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: path})
		spec.Linux.Sysctl = map[string]string{"net/ipv4/ip_forward": "1"}
		n, err := normalise(CreateRequest{ID: "c1", Spec: spec}, hostFacts{})
		if err != nil {
			t.Fatal(err)
		}
		if (len(n.netSysctls) == 1) != split || (len(n.spec.Linux.Sysctl) == 0) != split || n.netNS != path {
			t.Errorf("path %q: split %v, kept %v, in %q", path, n.netSysctls, n.spec.Linux.Sysctl, n.netNS)
		}
	}
}

func TestDeviceRules(t *testing.T) {
	t.Parallel()
	deny := specs.LinuxDeviceCgroup{Allow: false, Access: "rwm"}
	rule := func(allow bool, minor int64, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: allow, Type: "c", Major: new(int64(10)), Minor: new(minor), Access: access}
	}
	nodes := []specs.LinuxDevice{
		{Path: "/dev/a", Type: "u", Major: 10, Minor: 1}, {Path: "/dev/b", Type: "c", Major: 10, Minor: 2}, {Path: "/dev/p", Type: "p"},
	}
	for name, tc := range map[string]struct{ rules, want []specs.LinuxDeviceCgroup }{
		"none":               {nil, []specs.LinuxDeviceCgroup{deny, rule(true, 1, "rwm"), rule(true, 2, "rwm")}},
		"all is dropped":     {[]specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}, {Allow: true, Type: "a", Access: "rwm"}}, []specs.LinuxDeviceCgroup{deny, rule(true, 1, "rwm"), rule(true, 2, "rwm")}},
		"narrow rule stays":  {[]specs.LinuxDeviceCgroup{rule(true, 1, "r")}, []specs.LinuxDeviceCgroup{deny, rule(true, 1, "r"), rule(true, 2, "rwm")}},
		"denied node is not": {[]specs.LinuxDeviceCgroup{rule(false, 2, "w")}, []specs.LinuxDeviceCgroup{deny, rule(false, 2, "w"), rule(true, 1, "rwm")}},
	} {
		got := deviceRules(&specs.LinuxResources{Devices: tc.rules, Pids: &specs.LinuxPids{}}, nodes)
		if diff := cmp.Diff(tc.want, got.Devices); diff != "" || got.Pids == nil {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestSysctlNames(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"net.ipv4.ping_group_range":           "ipv4/ping_group_range",
		"net/ipv4/conf/eno2.100/rp_filter":    "ipv4/conf/eno2.100/rp_filter",
		"net.ipv4.conf.eno2/100.rp_filter":    "ipv4/conf/eno2.100/rp_filter",
		"net/../kernel/core_pattern":          "",
		"net.//.kernel":                       "",
		"net..ipv4":                           "",
		"net.":                                "",
		"net":                                 "",
		"kernel.core_pattern":                 "",
		"net/./ipv4":                          "",
		"net/ipv4/":                           "",
		"net.ipv4.\x00":                       "",
		"net.ipv4.conf.all.forwarding/..":     "",
		"net.core./././.kernel.core_pattern/": "",
	} {
		got, err := sysctlPath(in)
		if want == "" && !errors.Is(err, ErrRefused) || want != "" && (err != nil || got != want) {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}

func FuzzSysctlPath(f *testing.F) {
	f.Add("net.ipv4.ip_forward")
	f.Add("net/../kernel/core_pattern")
	f.Add("net.//.kernel.core_pattern")
	f.Fuzz(func(t *testing.T, name string) {
		path, err := sysctlPath(name)
		if err != nil {
			return
		}
		for _, part := range strings.Split(path, "/") {
			if part == "" || part == "." || part == ".." || strings.ContainsRune(part, 0) {
				t.Fatalf("%q gave %q", name, path)
			}
		}
	})
}

func FuzzCgroupPath(f *testing.F) {
	f.Add("kubepods-x.slice:cri-containerd:c")
	f.Add("/a/../b")
	f.Add("::..")
	f.Fuzz(func(t *testing.T, in string) {
		got, err := cgroupPath(in, "c1")
		if err == nil && (len(got) < 2 || got[0] != '/' || strings.Contains("/"+got+"/", "/../") || strings.ContainsRune(got, 0)) {
			t.Fatalf("%q gave %q", in, got)
		}
	})
}

func TestOnlyTheInitialRootForbidsPivot(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		info mountinfo.Info
		want bool
	}{
		"initial rootfs":      {mountinfo.Info{ID: 1, Parent: 1, FSType: "rootfs"}, true},
		"moved bind of it":    {mountinfo.Info{ID: 20, Parent: 1, FSType: "rootfs"}, false},
		"disk":                {mountinfo.Info{ID: 20, Parent: 1, FSType: "ext4"}, false},
		"disk without parent": {mountinfo.Info{ID: 1, Parent: 1, FSType: "ext4"}, false},
	} {
		if got := isInitialRoot(&tc.info); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestErrorsOfMissingProgramsOnlyAreReworded(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		`x: exec: "p": executable file not found in $PATH`:      true,
		`x: exec: "p": stat p: no such file or directory`:       true,
		`x: exec: "p": permission denied`:                       false,
		`mount "p": no such file or directory`:                  false,
		`x: exec: "other": executable file not found in $PATH`:  false,
		`unable to start: exec fifo: no such file or directory`: false,
	} {
		cause := errors.New(text)
		got := explainStart(cause, []string{"p"})
		if errors.Is(got, ErrNotFound) != want || !errors.Is(got, cause) || strings.Contains(got.Error(), "the file p was not found") != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if got := explainStart(nil, []string{"p"}); got != nil {
		t.Error(got)
	}
}

func TestResourceLimits(t *testing.T) {
	t.Parallel()
	for name, in := range map[string][]specs.POSIXRlimit{
		"unknown":      {{Type: "RLIMIT_X"}},
		"no prefix":    {{Type: "NOFILE"}},
		"twice":        {{Type: "RLIMIT_CPU"}, {Type: "RLIMIT_CPU"}},
		"soft is more": {{Type: "RLIMIT_CPU", Soft: 2, Hard: 1}},
	} {
		if _, err := rlimits(in); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if out, err := rlimits([]specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1, Hard: 2}}); err != nil || len(out) != 1 || out[0].Type != 7 {
		t.Errorf("%v, %v", out, err)
	}
}

func TestAContainerDoesNotInheritTheAgentsProtectionFromTheOOMKiller(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		own   int
		given *int
		want  *int
	}{
		"protected agent, nothing given": {-997, nil, new(0)},
		"protected agent, score given":   {-997, new(-998), new(-998)},
		"plain agent, nothing given":     {0, nil, nil},
		"plain agent, score given":       {0, new(500), new(500)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := normaliseProcess(&specs.Process{Args: []string{"x"}, OOMScoreAdj: tc.given}, hostFacts{oomScoreAdj: tc.own})
			if err != nil {
				t.Fatal(err)
			}
			got := p.OOMScoreAdj
			if (got == nil) != (tc.want == nil) || got != nil && *got != *tc.want {
				t.Errorf("score is %v, want %v", got, tc.want)
			}
		})
	}
}

func TestAnUnreadableScoreIsAnError(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "score")
	if _, err := ownScore(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
	if err := os.WriteFile(file, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ownScore(file); err == nil {
		t.Error("a score that is no number was accepted")
	}
}
