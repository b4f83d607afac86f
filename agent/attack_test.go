// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cocoon/internal/wire/agentpb"
)

func TestOddContainerIDsAreRefused(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	for _, id := range []string{
		"", "a", ".", "..", "../..", "a/b", "/etc", "-rf", ".hidden", "_x", "a b", "a\nb", "a\x00b", "ä1", "a\xffb", "a;b", "a%00",
		strings.Repeat("a", 256), "image", "sandbox", "shared", "agent.sock",
	} {
		r := g.container("ok", "true")
		r.ContainerId = id
		_, err := g.CreateContainer(limited(t), r)
		if c := status.Code(err); c == codes.OK {
			t.Errorf("%q was accepted", id)
		}
	}
	if n := g.puller.mounted(); n != 0 {
		t.Errorf("%d images were pulled", n)
	}
	_, err := g.CreateSandbox(limited(t), &agentpb.CreateSandboxRequest{SandboxId: "../x"})
	wantStatus(t, err, codes.InvalidArgument, "invalid container ID")
}

func TestOfManyCreationsWithOneIDOneSucceeds(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	var made atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_, err := g.CreateContainer(limited(t), g.container("same", "sleep", "1000"))
			if err == nil {
				made.Add(1)
				return
			}
			wantStatus(t, err, codes.Internal, `container "same" already exists`)
		})
	}
	wg.Wait()
	if made.Load() != 1 || g.puller.mounted() != 1 {
		t.Fatalf("%d creations, %d images", made.Load(), g.puller.mounted())
	}
	g.remove(t, "same")
	g.created(t, g.container("same", "true"))
}

func TestAContainerThatCannotBeMadeLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	for name, tc := range map[string]struct {
		change func(*agentpb.CreateContainerRequest)
		code   codes.Code
		text   string
	}{
		"no such program":  {func(r *agentpb.CreateContainerRequest) { r.OCI.Process.Args[0] = "/no/such" }, codes.Internal, "container: "},
		"no specification": {func(r *agentpb.CreateContainerRequest) { r.OCI = nil }, codes.InvalidArgument, "no OCI specification"},
		"no process":       {func(r *agentpb.CreateContainerRequest) { r.OCI.Process = nil }, codes.InvalidArgument, "process section"},
		"no root":          {func(r *agentpb.CreateContainerRequest) { r.OCI.Root = nil }, codes.InvalidArgument, "no root"},
		"devices": {func(r *agentpb.CreateContainerRequest) {
			r.Devices = []*agentpb.Device{{Type: "blk"}}
		}, codes.InvalidArgument, "invalid ID and VM path"},
		"devices by CDI of no kind": {func(r *agentpb.CreateContainerRequest) {
			r.OCI.Annotations = map[string]string{"cdi.k8s.io/vfio16": "gpu"}
		}, codes.InvalidArgument, "devices by CDI"},
		"shared mounts": {func(r *agentpb.CreateContainerRequest) {
			r.SharedMounts = []*agentpb.SharedMount{{Name: "x"}}
		}, codes.Unimplemented, "shared mounts"},
		"trusted store": {func(r *agentpb.CreateContainerRequest) {
			r.OCI.Linux.Devices = []*agentpb.LinuxDevice{{Path: trustedStore, Type: "b"}}
		}, codes.InvalidArgument, "trusted image store: no device"},
		"unknown storage": {func(r *agentpb.CreateContainerRequest) {
			r.Storages = append(r.Storages, &agentpb.Storage{Driver: "9p", MountPoint: g.paths.Run + "/sandbox/x"})
		}, codes.Internal, "Failed to find the storage handler 9p"},
		"the guest's mount namespace": {func(r *agentpb.CreateContainerRequest) {
			r.OCI.Linux.Namespaces[2].Path = "/proc/1/ns/mnt"
		}, codes.InvalidArgument, "path of the mount namespace"},
		"a hook in the guest": {func(r *agentpb.CreateContainerRequest) {
			r.OCI.Hooks = &agentpb.Hooks{Prestart: []*agentpb.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "id"}}}}
		}, codes.InvalidArgument, "prestart hook"},
		"a poststop hook": {func(r *agentpb.CreateContainerRequest) {
			r.OCI.Hooks = &agentpb.Hooks{Poststop: []*agentpb.Hook{{Path: "/bin/sh"}}}
		}, codes.InvalidArgument, "is not part of the guest's image"},
		"no mount namespace": {func(r *agentpb.CreateContainerRequest) {
			r.OCI.Linux.Namespaces = r.OCI.Linux.Namespaces[:2]
		}, codes.Internal, "mount namespace"},
		"the root cgroup": {func(r *agentpb.CreateContainerRequest) { r.OCI.Linux.CgroupsPath = "/../.." }, codes.Internal, "cgroup"},
		"a sealed secret": {func(r *agentpb.CreateContainerRequest) {
			r.OCI.Process.Env = append(r.OCI.Process.Env, "S=sealed.abc")
		}, codes.Internal, "sealed secret cannot be opened"},
		"a missing mount source": {func(r *agentpb.CreateContainerRequest) {
			r.OCI.Mounts = append(r.OCI.Mounts, &agentpb.Mount{Destination: "/x", Source: g.paths.Run + "/none", Type: "bind"})
		}, codes.Internal, `source of mount "/x"`},
	} {
		for range 2 { // the same id can be used again
			r := g.container("c1", "true")
			tc.change(r)
			_, err := g.CreateContainer(limited(t), r)
			s := status.Convert(err)
			if s.Code() != tc.code || !strings.Contains(s.Message(), tc.text) {
				t.Errorf("%s: %v, want %v with %q", name, err, tc.code, tc.text)
			}
			if _, err := os.Lstat(g.paths.bundle("c1")); !errors.Is(err, os.ErrNotExist) || g.puller.mounted() != 0 {
				t.Fatalf("%s: bundle %v, %d images", name, err, g.puller.mounted())
			}
		}
	}
	g.created(t, g.container("c1", "true"))
}

func TestAFailedPullNamesTheImage(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	g.puller.fail = errors.New("Failed to pull image X: tls: certificate signed by unknown authority") //nolint:staticcheck // as the real one says it
	_, err := g.CreateContainer(limited(t), g.container("c1", "true"))
	wantStatus(t, err, codes.Internal, `Failed to pull image X: tls: certificate signed`)
	none := newGuest(t, guestOptions{noPuller: true})
	_, err = none.CreateContainer(limited(t), none.container("c1", "true"))
	wantStatus(t, err, codes.Internal, "Failed to pull image")
}

func TestOtherCallsAreServedWhileAnImageIsPulled(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	g.started(t, "c1", "sleep", "1000")
	g.puller.mu.Lock()
	g.puller.block, g.puller.began = make(chan struct{}), make(chan struct{}, 1)
	g.puller.mu.Unlock()
	made := make(chan error, 1)
	go func() {
		_, err := g.CreateContainer(limited(t), g.container("slow", "true"))
		made <- err
	}()
	<-g.puller.began
	if _, err := g.StatsContainer(limited(t), &agentpb.StatsContainerRequest{ContainerId: "c1"}); err != nil {
		t.Error(err)
	}
	_, err := g.StartContainer(limited(t), &agentpb.StartContainerRequest{ContainerId: "slow"})
	wantStatus(t, err, codes.Internal, "Invalid container id")
	_, err = g.CreateContainer(limited(t), g.container("slow", "true"))
	wantStatus(t, err, codes.Internal, "already exists")
	g.remove(t, "c1")
	close(g.puller.block)
	if err := <-made; err != nil {
		t.Error(err)
	}
}

func TestDestroySandboxEndsAPullAndEverythingElse(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	if _, err := g.CreateSandbox(limited(t), &agentpb.CreateSandboxRequest{}); err != nil {
		t.Fatal(err)
	}
	g.started(t, "c1", "sleep", "1000")
	g.puller.mu.Lock()
	g.puller.block, g.puller.began = make(chan struct{}), make(chan struct{}, 1)
	g.puller.mu.Unlock()
	made := make(chan error, 1)
	go func() {
		_, err := g.CreateContainer(limited(t), g.container("slow", "true"))
		made <- err
	}()
	<-g.puller.began
	if _, err := g.DestroySandbox(limited(t), &agentpb.DestroySandboxRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := <-made; err == nil || !strings.Contains(err.Error(), "sandbox is destroyed") {
		t.Errorf("the creation under way ended with %v", err)
	}
	for _, dir := range []string{g.paths.Run, g.paths.Namespaces} {
		if left := mountsBelow(t, dir); len(left) > 0 {
			t.Errorf("still mounted: %q", left)
		}
	}
	_, err := g.DestroySandbox(limited(t), &agentpb.DestroySandboxRequest{})
	wantStatus(t, err, codes.Internal, "the sandbox is destroyed")
	_, err = g.CreateSandbox(limited(t), &agentpb.CreateSandboxRequest{})
	wantStatus(t, err, codes.Internal, "the sandbox is destroyed")
	_, err = g.CreateContainer(limited(t), g.container("c2", "true"))
	wantStatus(t, err, codes.Internal, "the sandbox is destroyed")
	_, err = g.StatsContainer(limited(t), &agentpb.StatsContainerRequest{ContainerId: "c1"})
	wantStatus(t, err, codes.InvalidArgument, "invalid container id")
	_, err = g.GetOOMEvent(limited(t), &agentpb.GetOOMEventRequest{})
	wantStatus(t, err, codes.Internal, "")
	// The client closes; that ends the server without waiting for its grace.
	closeClient(t, g.client)
	select {
	case <-g.agent.Done():
	case <-time.After(20 * time.Second):
		t.Error("the agent is not done")
	}
}

func TestASandboxIsCreatedOnce(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	shm := &agentpb.Storage{Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: g.paths.Run + "/sandbox/shm"}
	for name, r := range map[string]*agentpb.CreateSandboxRequest{
		"hooks":            {GuestHookPath: "/usr/share/oci/hooks"},
		"long hostname":    {Hostname: strings.Repeat("h", 65)},
		"option as module": {KernelModules: []*agentpb.KernelModule{{Name: "-C"}}},
		"path as module":   {KernelModules: []*agentpb.KernelModule{{Name: "/tmp/evil"}}},
		"no module":        {KernelModules: []*agentpb.KernelModule{{}}},
		"option parameter": {KernelModules: []*agentpb.KernelModule{{Name: "loop", Parameters: []string{"--force"}}}},
		"absent module":    {KernelModules: []*agentpb.KernelModule{{Name: "cocoon_absent"}}},
		"second storage":   {Storages: []*agentpb.Storage{shm, {Driver: "none", MountPoint: g.paths.Run + "/sandbox/y"}}},
		"storage outside":  {Storages: []*agentpb.Storage{{Driver: "ephemeral", Fstype: "tmpfs", MountPoint: "/mnt"}}},
	} {
		if _, err := g.CreateSandbox(limited(t), r); err == nil {
			t.Fatalf("%s: was carried out", name)
		}
		if left := append(mountsBelow(t, g.paths.Run), mountsBelow(t, g.paths.Namespaces)...); len(left) > 0 {
			t.Errorf("%s: left mounted: %q", name, left)
		}
	}
	if _, err := g.CreateSandbox(limited(t), &agentpb.CreateSandboxRequest{Storages: []*agentpb.Storage{shm}}); err != nil {
		t.Fatal(err)
	}
	_, err := g.CreateSandbox(limited(t), &agentpb.CreateSandboxRequest{})
	wantStatus(t, err, codes.Internal, "sandbox already exists")
}

func TestCreateSandboxClearsStaleBundlesButNoMounts(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	for _, d := range []string{"stale/rootfs", "image/layers", "held/mnt"} {
		if err := os.MkdirAll(filepath.Join(g.paths.Run, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	held := filepath.Join(g.paths.Run, "held/mnt")
	if err := unix.Mount("tmpfs", held, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(held, 0); err != nil {
			t.Error(err)
		}
	}()
	if err := os.WriteFile(held+"/data", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := g.CreateSandbox(limited(t), &agentpb.CreateSandboxRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(g.paths.Run, "stale")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the stale bundle stays: %v", err)
	}
	for _, p := range []string{held + "/data", filepath.Join(g.paths.Run, "image/layers")} {
		if _, err := os.Stat(p); err != nil {
			t.Error(err)
		}
	}
}

func TestALinkInTheSharedDirectoryBringsInNothingOfTheGuest(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	links := map[string]string{"abs": outside, "up": strings.Repeat("../", 12) + outside}
	for name, target := range links {
		if _, err := g.CopyFile(limited(t), &agentpb.CopyFileRequest{
			Path: g.paths.Shared + "/" + name, FileMode: unix.S_IFLNK | 0o777, Data: []byte(target),
		}); err != nil {
			t.Fatal(err)
		}
		for _, source := range []string{g.paths.Shared + "/" + name, g.paths.Shared + "/" + name + "/secret"} {
			r := g.container("c1", "ls", "/mnt")
			r.OCI.Mounts = append(r.OCI.Mounts, &agentpb.Mount{Destination: "/mnt", Source: source, Type: "bind", Options: []string{"rbind"}})
			_, err := g.CreateContainer(limited(t), r)
			wantStatus(t, err, codes.Internal, `mount "/mnt"`)
		}
	}
	for name := range links {
		_, err := g.CopyFile(limited(t), &agentpb.CopyFileRequest{
			Path: g.paths.Shared + "/" + name + "/evil", FileSize: 1, FileMode: unix.S_IFREG | 0o644, DirMode: 0o755, Data: []byte("x"),
		})
		if _, statErr := os.Lstat(filepath.Join(outside, "evil")); !errors.Is(statErr, os.ErrNotExist) {
			t.Errorf("%s: a file was written outside (%v, %v)", name, statErr, err)
		}
	}
}

// TestALinkInAVolumeOrAnImageBringsInNothingOfTheGuest has a container, or an
// image, plant the link.
func TestALinkInAVolumeOrAnImageBringsInNothingOfTheGuest(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	outside, volume := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, volume+"/link"); err != nil {
		t.Fatal(err)
	}
	g.puller.link = outside
	for _, source := range []string{volume + "/link", volume + "/link/secret", "rootfs/link", "rootfs/link/secret", strings.Repeat("../", 12) + outside[1:]} {
		r := g.container("c1", "ls", "/mnt")
		r.OCI.Mounts = append(r.OCI.Mounts, &agentpb.Mount{Destination: "/mnt", Source: source, Type: "bind", Options: []string{"rbind"}})
		if _, err := g.CreateContainer(limited(t), r); err == nil {
			t.Fatalf("%q was mounted", source)
		} else if !strings.Contains(err.Error(), `source of mount "/mnt"`) && !strings.Contains(err.Error(), "leaves the bundle") {
			t.Errorf("%q: %v", source, err)
		}
	}
	r := g.container("c1", "ls", "/mnt")
	r.OCI.Mounts = append(r.OCI.Mounts, &agentpb.Mount{Destination: "/mnt", Source: volume, Type: "bind", Options: []string{"rbind"}})
	g.created(t, r)
}

func TestARootIsTakenFromTheRunDirectoryOnly(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	for _, root := range []string{"/", "/etc", "", "relative", g.paths.Run, g.paths.Run + "/../..", g.paths.Run + "/none"} {
		r := g.container("c1", "true")
		r.Storages, r.OCI.Root.Path = nil, root
		if _, err := g.CreateContainer(limited(t), r); err == nil {
			t.Fatalf("%q became the root of a container", root)
		}
	}
	// A root in the shared directory is bound into the bundle.
	root := g.paths.Shared + "/c1/rootfs"
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := fillBusybox(root); err != nil {
		t.Fatal(err)
	}
	r := g.container("c1", "echo", "here")
	r.Storages, r.OCI.Root.Path = nil, root
	g.created(t, r)
	if _, err := g.StartContainer(limited(t), &agentpb.StartContainerRequest{ContainerId: "c1"}); err != nil {
		t.Fatal(err)
	}
	if out := g.output(t, "c1", ""); out != "here\n" {
		t.Errorf("output %q", out)
	}
	g.remove(t, "c1")
	if _, err := os.Stat(root + "/bin/busybox"); err != nil {
		t.Errorf("removal of the container emptied its source: %v", err)
	}
}

func TestAStorageDoesNotReachIntoAnotherContainer(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	g.created(t, g.container("victim", "true"))
	for _, point := range []string{
		g.paths.bundle("victim"), g.paths.bundle("victim") + "/rootfs/bin",
		g.paths.bundle("later") + "/rootfs/bin", // not made yet
		g.paths.Run + "/image", g.paths.Run + "/image/layers/x",
	} {
		stolen := &agentpb.Storage{Driver: "ephemeral", Fstype: "tmpfs", Source: "tmpfs", MountPoint: point}
		r := g.container("c1", "true")
		r.Storages = append(r.Storages, stolen)
		_, err := g.CreateContainer(limited(t), r)
		wantStatus(t, err, codes.InvalidArgument, "no place of the container or the pod")
		_, err = g.CreateSandbox(limited(t), &agentpb.CreateSandboxRequest{Storages: []*agentpb.Storage{stolen}})
		wantStatus(t, err, codes.InvalidArgument, "no place of the container or the pod")
	}
}

func TestHostileStreamLengths(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	g.started(t, "c1", "sh", "-c", "head -c 3000000 /dev/zero; sleep 1000")
	for _, n := range []uint32{1<<32 - 1, 1 << 31, maxRead + 1, 1} {
		r, err := g.ReadStdout(limited(t), &agentpb.ReadStreamRequest{ContainerId: "c1", Len: n})
		if err != nil || len(r.GetData()) == 0 || len(r.GetData()) > maxRead {
			t.Errorf("read of %d: %d bytes (%v)", n, len(r.GetData()), err)
		}
	}
	_, err := g.ReadStdout(limited(t), &agentpb.ReadStreamRequest{ContainerId: "c1"})
	wantStatus(t, err, codes.InvalidArgument, "read of 0 bytes")
}

func TestRemovalAndStartRunOneAfterTheOther(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	for range 5 {
		g.created(t, g.container("c1", "sleep", "1000"))
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				_, err := g.StartContainer(limited(t), &agentpb.StartContainerRequest{ContainerId: "c1"})
				if err != nil && status.Code(err) != codes.Internal {
					t.Errorf("start: %v", err)
				}
			})
			wg.Go(func() {
				_, err := g.RemoveContainer(limited(t), &agentpb.RemoveContainerRequest{ContainerId: "c1", Timeout: 30})
				if err != nil {
					wantStatus(t, err, codes.Internal, "Invalid container id")
				}
			})
		}
		wg.Wait()
		if _, err := os.Lstat(g.paths.bundle("c1")); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("the bundle is left: %v", err)
		}
	}
}
