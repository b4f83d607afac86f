// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"cocoon/internal/wire/agentpb"
)

func TestTheSandboxContainerRunsTheBuiltInPause(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{noPuller: true})
	g.created(t, g.sandboxContainer("pod"))
	if _, err := g.StartContainer(limited(t), &agentpb.StartContainerRequest{ContainerId: "pod"}); err != nil {
		t.Fatal(err)
	}
	rt, err := g.agent.sandbox.running("pod")
	if err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", rt.InitPID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t65534\t65534", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(stat), want) {
			t.Errorf("pause has no %q in\n%s", want, stat)
		}
	}
	if _, err := g.SignalProcess(limited(t), &agentpb.SignalProcessRequest{ContainerId: "pod", Signal: 9}); err != nil {
		t.Fatal(err)
	}
	r, err := g.ReadStderr(limited(t), &agentpb.ReadStreamRequest{ContainerId: "pod", Len: 4096})
	if err != nil || len(r.GetData()) > 0 {
		t.Errorf("pause says %q (%v)", r.GetData(), err)
	}
	if code := g.wait(t, "pod", "pod"); code != 137 {
		t.Errorf("pause ended with %d", code)
	}
	g.remove(t, "pod")
}

func TestNoImageRunsUnderTheNameOfTheSandboxContainer(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	const other = `image_guest_pull={"metadata":{"io.kubernetes.cri.container-type":"container"}}`
	for name, change := range map[string]func(*agentpb.CreateContainerRequest){
		"image of a container":         func(r *agentpb.CreateContainerRequest) { r.Storages[0].DriverOptions = []string{other} },
		"image without a kind":         func(r *agentpb.CreateContainerRequest) { r.Storages[0].DriverOptions = []string{`image_guest_pull={}`} },
		"specification without a kind": func(r *agentpb.CreateContainerRequest) { r.OCI.Annotations = nil },
		"specification of a container": func(r *agentpb.CreateContainerRequest) {
			r.OCI.Annotations = map[string]string{"io.kubernetes.cri.container-type": "container"}
		},
	} {
		r := g.sandboxContainer("pod")
		change(r)
		_, err := g.CreateContainer(limited(t), r)
		wantStatus(t, err, codes.InvalidArgument, "disagree")
		if _, err := os.Lstat(g.paths.bundle("pod")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the bundle is left: %v", name, err)
		}
	}
}

func TestAMissingPauseProgramIsAClearError(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{noPuller: true, pauseBinary: "/nonexistent"})
	_, err := g.CreateContainer(limited(t), g.sandboxContainer("pod"))
	wantStatus(t, err, codes.Internal, "Pause image not present in rootfs")
	if _, err := os.Lstat(g.paths.bundle("pod")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the bundle is left: %v", err)
	}
}
