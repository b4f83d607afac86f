// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"cocoon/agent/agentctl/client"
)

func TestAMissingPeerIsNamedWithItsPackage(t *testing.T) {
	t.Parallel()
	_, err := findTools(t.Context(), []tool{{"sh", "dash"}, {"no-such-program", "some-package"}, {"nor-this", "another"}})
	if err == nil {
		t.Fatal("programs that do not exist were found")
	}
	for _, want := range []string{"no-such-program of package some-package", "nor-this of package another"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "dash") {
		t.Errorf("error %q names a program that is there", err)
	}
}

// TestBothEnginesReallyJudgeTheRequest asks for the container that the large
// policy allows, and for one that it does not.
func TestBothEnginesReallyJudgeTheRequest(t *testing.T) {
	t.Parallel()
	text := largePolicy(minPolicy)
	if len(text) < minPolicy {
		t.Fatalf("the policy has %d bytes", len(text))
	}
	req, err := client.Container{ID: "c1", Image: "registry.example/app:1", Args: []string{"/bin/app", "other"}}.Request()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := timeDecisions(t.Context(), text, raw); err == nil || !strings.Contains(err.Error(), "blocked by policy") {
		t.Errorf("our engine: %v", err)
	}
	if _, err := timeOPA(t.Context(), text, raw); err == nil || !strings.Contains(err.Error(), "refuses") {
		t.Errorf("the peer: %v", err)
	}
	if _, err := timeDecisions(t.Context(), "package agent_policy\n", raw); err == nil {
		t.Error("a policy without rules allows the request")
	}
}

// TestRuncRunsWhatTheAgentRuns looks for what would make the comparison unfair.
func TestRuncRunsWhatTheAgentRuns(t *testing.T) {
	t.Parallel()
	req, err := (&agentRunner{root: "/root-of-both"}).request("c1", "/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	spec, err := runcSpec(req.GetOCI(), "/ns/ipc", "/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	if len(req.GetStorages()) != 0 || req.GetOCI().GetRoot().GetPath() != "/root-of-both" || spec.Root.Path != "/root-of-both" {
		t.Errorf("roots are %v and %v", req.GetOCI().GetRoot(), spec.Root)
	}
	if len(spec.Mounts) != len(req.GetOCI().GetMounts()) || spec.Linux.CgroupsPath != "/cocoon-bench/c1" {
		t.Errorf("%d mounts, cgroup %q", len(spec.Mounts), spec.Linux.CgroupsPath)
	}
	for _, m := range spec.Mounts {
		if m.Type == "bind" {
			t.Errorf("%s refers to a sandbox", m.Destination)
		}
	}
	want := []specs.LinuxNamespace{
		{Type: specs.IPCNamespace, Path: "/ns/ipc"}, {Type: specs.UTSNamespace, Path: "/ns/uts"}, {Type: specs.MountNamespace}, {Type: specs.PIDNamespace},
	}
	if !slices.Equal(spec.Linux.Namespaces, want) {
		t.Errorf("namespaces are %v, want %v", spec.Linux.Namespaces, want)
	}
}
