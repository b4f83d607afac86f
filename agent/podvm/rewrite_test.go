// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package podvm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"cocoon/internal/wire/agentpb"
)

func namespaces(paths ...string) *agentpb.CreateContainerRequest {
	l := &agentpb.Linux{Namespaces: []*agentpb.LinuxNamespace{{Type: "ipc"}, {Type: "mount"}}}
	for _, p := range paths {
		l.Namespaces = append(l.Namespaces, &agentpb.LinuxNamespace{Type: "network", Path: p})
	}
	return &agentpb.CreateContainerRequest{ContainerId: "c", OCI: &agentpb.Spec{Linux: l}}
}

func TestRequestsAreAdaptedToThePodsNetwork(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ in, want proto.Message }{
		"sandbox":     {&agentpb.CreateSandboxRequest{Hostname: "h", Dns: []string{"nameserver 10.0.0.1"}}, &agentpb.CreateSandboxRequest{Hostname: "h"}},
		"container":   {namespaces(), namespaces("/run/netns/podns")},
		"given twice": {namespaces("/run/netns/podns"), namespaces("/run/netns/podns")},
		"no linux": {&agentpb.CreateContainerRequest{OCI: &agentpb.Spec{}}, &agentpb.CreateContainerRequest{OCI: &agentpb.Spec{
			Linux: &agentpb.Linux{Namespaces: []*agentpb.LinuxNamespace{{Type: "network", Path: "/run/netns/podns"}}}}}},
		"no spec": {&agentpb.CreateContainerRequest{ContainerId: "c"}, &agentpb.CreateContainerRequest{ContainerId: "c"}},
		"others":  {&agentpb.StartContainerRequest{ContainerId: "c"}, &agentpb.StartContainerRequest{ContainerId: "c"}},
	} {
		if err := (Rewriter{}).Rewrite(tc.in); err != nil || !proto.Equal(tc.in, tc.want) {
			t.Errorf("%s: got %v, %v, want %v", name, tc.in, err, tc.want)
		}
	}
}

func TestARequestThatLeavesThePodIsRefused(t *testing.T) {
	t.Parallel()
	volume := func(a string) *agentpb.CreateContainerRequest {
		r := namespaces()
		r.OCI.Annotations = map[string]string{a: "x"}
		return r
	}
	for name, tc := range map[string]struct {
		in   *agentpb.CreateContainerRequest
		want error
	}{
		"another namespace": {namespaces("/proc/1/ns/net"), ErrNamespace},
		"a namespace anew":  {namespaces(""), ErrNamespace},
		"one more":          {namespaces("/run/netns/podns", "/proc/1/ns/net"), ErrNamespace},
		"cloud volumes":     {volume(annotationCloudVolumes), ErrVolume},
		"direct volumes":    {volume(annotationTargetPath), ErrVolume},
	} {
		if err := (Rewriter{}).Rewrite(tc.in); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
}

func TestTheInterceptorRewritesBeforeWhatFollows(t *testing.T) {
	t.Parallel()
	errDecode := errors.New("decode")
	call := func(decodeErr error, in *agentpb.CreateContainerRequest) (*agentpb.CreateContainerRequest, error) {
		var seen agentpb.CreateContainerRequest
		_, err := Rewriter{NetNS: "/x"}.Intercept(t.Context(), func(v any) error {
			proto.Merge(v.(proto.Message), in)
			return decodeErr
		}, nil, func(_ context.Context, decode func(any) error) (any, error) { return nil, decode(&seen) })
		return &seen, err
	}
	if got, err := call(nil, namespaces()); err != nil || !proto.Equal(got, namespaces("/x")) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := call(nil, namespaces("/y")); status.Code(err) != codes.InvalidArgument {
		t.Errorf("refused request: got %v", err)
	}
	if _, err := call(errDecode, namespaces()); !errors.Is(err, errDecode) {
		t.Errorf("undecodable request: got %v", err)
	}
}

func TestMissingBindSourcesAreMadeInsideTheirTreesOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tree, outside := filepath.Join(dir, "tree"), filepath.Join(dir, "outside")
	for _, d := range []string{tree, outside} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(tree, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	make := func(kind, source, destination string) error {
		return MakeBindSources(&agentpb.CreateContainerRequest{OCI: &agentpb.Spec{Mounts: []*agentpb.Mount{
			{Type: kind, Source: source, Destination: destination},
		}}}, []string{tree, filepath.Join(dir, "new")})
	}
	for _, tc := range []struct {
		kind, source, destination string
		made                      bool
	}{
		{"bind", tree + "/a/b", "/data", true},
		{"bind", tree + "/../tree/c", "/data", true},
		{"bind", dir + "/new/d", "/data", true},
		{"bind", tree + "/e", "/etc/resolv.conf", false},
		{"bind", tree + "/f", "/etc/../etc/hosts", false},
		{"tmpfs", tree + "/g", "/data", false},
		{"bind", outside + "/h", "/data", false},
		{"bind", tree + "/../outside/i", "/data", false},
		{"bind", tree + "-j", "/data", false},
	} {
		if err := make(tc.kind, tc.source, tc.destination); err != nil {
			t.Errorf("%+v: %v", tc, err)
		}
		if st, err := os.Stat(tc.source); tc.made != (err == nil && st.IsDir()) {
			t.Errorf("%+v: %v", tc, err)
		}
	}
	if err := make("bind", tree+"/file", "/data"); err != nil {
		t.Errorf("an existing file: %v", err)
	}
	for _, source := range []string{tree + "/link/k", tree + "/file/l"} {
		if err := make("bind", source, "/data"); err == nil {
			t.Errorf("%s: no error", source)
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("outside of the tree: %v, %v", left, err)
	}
	if err := MakeBindSources(&agentpb.CreateContainerRequest{}, BindTrees()); err != nil {
		t.Errorf("no spec: %v", err)
	}
}
