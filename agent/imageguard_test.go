// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"

	"google.golang.org/grpc/codes"

	"cocoon/internal/wire/agentpb"
)

func TestTheImageIsTheOneThatTheAnnotationNames(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	for name, tc := range map[string]struct {
		note, value, text string
	}{
		"containerd":     {"io.kubernetes.cri.image-name", "registry.example.com/app:2", "annotation io.kubernetes.cri.image-name names"},
		"CRI-O":          {"io.kubernetes.cri-o.ImageName", "registry.example.com/app", "annotation io.kubernetes.cri-o.ImageName names"},
		"empty":          {"io.kubernetes.cri.image-name", "", "annotation io.kubernetes.cri.image-name names"},
		"another digest": {"io.cocoon.image-digest", "sha256:0000", "demands \"sha256:0000\", but " + busyboxDigest},
		"no digest":      {"io.cocoon.image-digest", "", "demands \"\""},
	} {
		r := g.container("guarded", "true")
		r.OCI.Annotations = map[string]string{tc.note: tc.value}
		_, err := g.CreateContainer(limited(t), r)
		wantStatus(t, err, codes.InvalidArgument, tc.text)
		if n := g.puller.mounted(); n != 0 {
			t.Errorf("%s: %d images are left", name, n)
		}
	}
	r := g.container("guarded", "true")
	r.OCI.Annotations = map[string]string{
		"io.kubernetes.cri.image-name": "registry.example.com/app:1", "io.cocoon.image-digest": busyboxDigest,
	}
	g.created(t, r)
	g.remove(t, "guarded")
	pause := g.sandboxContainer("pod")
	pause.OCI.Annotations["io.kubernetes.cri.image-name"] = "registry.k8s.example/pause:3"
	g.created(t, pause)
	pause = g.sandboxContainer("pod2")
	pause.OCI.Annotations["io.cocoon.image-digest"] = busyboxDigest
	_, err := g.CreateContainer(limited(t), pause)
	wantStatus(t, err, codes.InvalidArgument, "but no image was pulled")
	var none *agentpb.CreateContainerRequest
	if err := checkKind(none); err != nil {
		t.Errorf("a request without image: %v", err)
	}
}
