// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cocoon/internal/wire/agentpb"
)

// generated is what matters of a generated policy: its rules compare neither
// the values of annotations nor what is pulled.
const generated = `package agent_policy
default CreateContainerRequest := false
CreateContainerRequest := {"allowed": true, "ops": [{"op": "add", "path": concat("/", ["", "pstate", input.container_id]), "value": index}]} if {
	some index, c in policy_data.containers
	c.OCI.Process.Args == input.OCI.Process.Args
}
default SetPolicyRequest := false
policy_data := {"containers": [
	{"OCI": {"Process": {"Args": ["/pause"]}, "Annotations": {"io.kubernetes.cri.container-type": "sandbox"}}},
	{"OCI": {"Process": {"Args": ["app"]}, "Annotations": {"io.kubernetes.cri.image-name": "app:latest"}}},
	{"OCI": {"Process": {"Args": ["other"]}, "Annotations": {"io.kubernetes.cri.image-name": "registry.example/other:1", "io.cocoon.image-digest": "sha256:aa"}}},
	{"OCI": {"Process": {"Args": ["nameless"]}, "Annotations": {}}},
]}
`

func pulling(args, source string, annotations map[string]string) *agentpb.CreateContainerRequest {
	return &agentpb.CreateContainerRequest{
		ContainerId: "c1", Storages: []*agentpb.Storage{{Driver: "image_guest_pull", Source: source}},
		OCI: &agentpb.Spec{Process: &agentpb.Process{Args: []string{args}}, Annotations: annotations},
	}
}

func TestTheImageIsTheOneOfThePolicysContainer(t *testing.T) {
	t.Parallel()
	digest := map[string]string{"io.cocoon.image-digest": "sha256:aa"}
	for name, tc := range map[string]struct {
		req     *agentpb.CreateContainerRequest
		allowed bool
		why     string
	}{
		"as the policy says":          {pulling("app", "docker.io/library/app:latest", nil), true, ""},
		"as the runtime writes it":    {pulling("app", "app", nil), true, ""},
		"with the wanted digest":      {pulling("other", "registry.example/other:1", digest), true, ""},
		"the sandbox":                 {pulling("/pause", "registry.example/pause:3", map[string]string{"io.kubernetes.cri.container-type": "sandbox"}), true, ""},
		"another image":               {pulling("app", "evil.example/app:latest", nil), false, "is not the one that the policy names"},
		"named in both places":        {pulling("app", "evil.example/x:1", map[string]string{"io.kubernetes.cri.image-name": "evil.example/x:1"}), false, "is not the one that the policy names"},
		"another tag":                 {pulling("app", "docker.io/library/app:1", nil), false, "is not the one that the policy names"},
		"of another container":        {pulling("app", "registry.example/other:1", digest), false, "is not the one that the policy names"},
		"no reference":                {pulling("app", "", nil), false, "is not the one that the policy names"},
		"without the digest":          {pulling("other", "registry.example/other:1", nil), false, `io.cocoon.image-digest = "sha256:aa"`},
		"with the host's digest":      {pulling("other", "registry.example/other:1", map[string]string{"io.cocoon.image-digest": "sha256:bb"}), false, `io.cocoon.image-digest = "sha256:aa"`},
		"nothing that it may be":      {pulling("nameless", "docker.io/library/app:latest", nil), false, "is not the one that the policy names"},
		"the pause image as workload": {pulling("/pause", "evil.example/x:1", nil), false, "is not the one that the policy names"},
	} {
		e := loaded(t, Config{}, generated)
		err := create(t, e, tc.req, nil)
		if tc.allowed {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%s: %v", name, err)
		}
		// The refusal has left no mark in the state.
		if err := create(t, e, pulling("app", "app:latest", nil), nil); err != nil {
			t.Errorf("%s: afterwards: %v", name, err)
		}
	}
	twice := pulling("app", "app:latest", nil)
	twice.Storages = append(twice.Storages, &agentpb.Storage{Driver: "image_guest_pull", Source: "evil.example/x:1"})
	if err := create(t, loaded(t, Config{}, generated), twice, nil); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a second image: %v", err)
	}
}

func TestAPolicyWithoutStateAllowsItsOwnImagesOnly(t *testing.T) {
	t.Parallel()
	text := strings.Replace(generated, `{"allowed": true, "ops": [{"op": "add", "path": concat("/", ["", "pstate", input.container_id]), "value": index}]}`, "true", 1)
	text = strings.Replace(text, "some index, c in", "some c in", 1)
	for source, allowed := range map[string]bool{"app": true, "evil.example/app": false} {
		if err := create(t, loaded(t, Config{}, text), pulling("app", source, nil), nil); (err == nil) != allowed {
			t.Errorf("%s: %v", source, err)
		}
	}
}

func TestNamesOfImagesAreComparedAsRuntimesWriteThem(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"busybox": "docker.io/library/busybox:latest", "busybox:1": "docker.io/library/busybox:1", "a/b": "docker.io/a/b:latest",
		"docker.io/busybox": "docker.io/library/busybox:latest", "index.docker.io/a/b:2": "docker.io/a/b:2", "localhost/a": "localhost/a:latest",
		"r.example:5000/a": "r.example:5000/a:latest", "r.example/a:1@sha256:00": "r.example/a@sha256:00", "a@sha256:00": "docker.io/library/a@sha256:00",
	} {
		if got := normalImage(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func TestAReportCutsNoSecretOutOfItsDisguise(t *testing.T) {
	t.Parallel()
	s, err := NewSession(t.Context(), `package agent_policy
default ExecProcessRequest := false
ExecProcessRequest if { input.process.Env == [] }
default WriteStreamRequest := false
WriteStreamRequest if { input.data == [] }
default SetPolicyRequest := false
SetPolicyRequest if { input.policy == "" }
`)
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.Repeat("s3cr3t", 100)
	for name, ask := range map[string]func() (Report, error){
		"environment": func() (Report, error) {
			return s.Ask(t.Context(), &agentpb.ExecProcessRequest{Process: &agentpb.Process{Env: []string{"TOKEN=" + secret}}})
		},
		"input":  func() (Report, error) { return s.Ask(t.Context(), &agentpb.WriteStreamRequest{Data: []byte(secret)}) },
		"policy": func() (Report, error) { return s.Ask(t.Context(), &agentpb.SetPolicyRequest{Policy: secret}) },
	} {
		r, err := ask()
		if err != nil || len(r.Failed) == 0 {
			t.Errorf("%s: %+v (%v)", name, r, err)
			continue
		}
		if got := r.Failed[0].Got; strings.Contains(got, "s3cr3t") || strings.Contains(got, "115,") {
			t.Errorf("%s: %q", name, got)
		}
	}
}
