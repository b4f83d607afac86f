// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cocoon/agent/policy"
	"cocoon/agent/runtime"
	"cocoon/internal/wire/agentpb"
)

// guest is an agent that runs on this host below a temporary directory, with
// the real runtime and the real policy engine, and a client of it.
type guest struct {
	agentpb.AgentServiceService
	health agentpb.HealthService
	client *ttrpc.Client
	agent  *Agent
	paths  Paths
	puller *busyboxPuller
	served chan error
	socket string
}

type guestOptions struct {
	policy   string // Rego; allow-all if empty
	unsealer Unsealer
	noPuller bool

	pauseBinary string // the real one if empty
	swapPolicy  Policy // in place of the engine
	log         io.Writer
	change      func(*Deps) // the last to set what the agent is made of
}

func newGuest(t *testing.T, o guestOptions) *guest {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	paths := PathsBelow(dir)
	if err := os.MkdirAll(filepath.Dir(paths.ResolvConf), 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if paths.PauseBinary = o.pauseBinary; paths.PauseBinary == "" {
		if paths.PauseBinary, err = pauseProgram(); err != nil {
			t.Fatal(err)
		}
	}
	if o.log == nil {
		o.log = t.Output()
	}
	log := slog.New(slog.NewTextHandler(o.log, nil))
	rt, err := runtime.New(runtime.Config{StateDir: filepath.Join(dir, "state"), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if o.policy == "" {
		o.policy = policy.AllowAll()
	}
	g := &guest{paths: paths, puller: &busyboxPuller{}, served: make(chan error, 1), socket: filepath.Join(dir, "agent.sock")}
	engine := policy.New(policy.Config{OnDeniedRead: func(_ context.Context, s policy.Stream) {
		g.agent.Drain(s.ContainerID, s.ExecID, s.Stderr)
	}})
	if err := engine.Load(t.Context(), o.policy); err != nil {
		t.Fatal(err)
	}
	deps := Deps{Version: "4.1.0", Runtime: rt, Policy: engine, Unsealer: o.unsealer, Network: ownNetwork(t), Paths: paths, Log: log, SupportsSeccomp: true}
	if o.swapPolicy != nil {
		deps.Policy = o.swapPolicy
	}
	if !o.noPuller {
		deps.Puller = g.puller
	}
	if o.change != nil {
		o.change(&deps)
	}
	if g.agent, err = New(deps); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", g.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { g.served <- g.agent.Serve(ctx, l) }()
	g.client = g.dial(t)
	g.AgentServiceService = agentpb.NewAgentServiceClient(g.client)
	g.health = agentpb.NewHealthClient(g.client)
	t.Cleanup(func() { g.stop(t, cancel) })
	return g
}

// dial opens a further connection, which is closed at the end of the test.
func (g *guest) dial(t *testing.T) *ttrpc.Client {
	t.Helper()
	conn, err := net.Dial("unix", g.socket)
	if err != nil {
		t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	t.Cleanup(func() { closeClient(t, c) })
	return c
}

func closeClient(t *testing.T, c *ttrpc.Client) {
	t.Helper()
	if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Errorf("close client: %v", err)
	}
	c.UserOnCloseWait(context.Background()) //nolint:errcheck // it returns when the client's goroutines have ended
}

// stop ends the agent and checks that nothing of it is left on the host.
func (g *guest) stop(t *testing.T, cancel context.CancelFunc) {
	t.Helper()
	if err := g.agent.Close(context.Background()); err != nil {
		t.Errorf("close agent: %v", err)
	}
	closeClient(t, g.client)
	cancel()
	select {
	case err := <-g.served:
		if err != nil {
			t.Errorf("serve: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the server does not end")
	}
	for _, dir := range []string{g.paths.Run, g.paths.Namespaces} {
		if left := mountsBelow(t, dir); len(left) > 0 {
			t.Errorf("mounts left behind: %q", left)
			for _, m := range left {
				_ = unix.Unmount(m, unix.MNT_DETACH)
			}
		}
	}
	if n := g.puller.mounted(); n != 0 {
		t.Errorf("%d images were not released", n)
	}
}

func mountsBelow(t *testing.T, dir string) []string {
	t.Helper()
	table, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 4 && below(dir, f[4]) {
			found = append(found, f[4])
		}
	}
	return found
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("containers and mounts need root")
	}
	if _, err := exec.LookPath("busybox"); err != nil {
		t.Skip("no busybox for a root file system")
	}
}

// busyboxPuller "pulls" by mounting a tmpfs with a static busybox.
type busyboxPuller struct {
	mu    sync.Mutex
	roots map[string]bool
	asked []PullRequest
	fail  error
	block chan struct{} // when set, a pull waits for it or for its context
	began chan struct{} // when set, told of each pull
	link  string        // when set, where /link of each image leads
}

// busyboxDigest is what the puller says of its one image.
const busyboxDigest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

func (b *busyboxPuller) Pull(ctx context.Context, r PullRequest) (PullResult, error) {
	b.mu.Lock()
	b.asked = append(b.asked, r)
	fail, block, began := b.fail, b.block, b.began
	b.mu.Unlock()
	if began != nil {
		began <- struct{}{}
	}
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return PullResult{}, ctx.Err()
		}
	}
	if fail != nil {
		return PullResult{}, fail
	}
	root := filepath.Join(r.Bundle, "rootfs")
	if err := os.Mkdir(root, 0o755); err != nil {
		return PullResult{}, err
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "mode=755"); err != nil {
		return PullResult{}, err
	}
	b.mu.Lock()
	if b.roots == nil {
		b.roots = map[string]bool{}
	}
	b.roots[r.Bundle] = true
	b.mu.Unlock()
	if b.link != "" {
		if err := os.Symlink(b.link, filepath.Join(root, "link")); err != nil {
			return PullResult{}, err
		}
	}
	return PullResult{Digest: busyboxDigest}, fillBusybox(root)
}

func fillBusybox(root string) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp", "etc", "run"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), data, 0o755); err != nil {
		return err
	}
	for _, name := range strings.Fields("sh true false sleep cat echo ls stty hostname kill wc head tr dd readlink stat") {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			return err
		}
	}
	return nil
}

func (b *busyboxPuller) Release(_ context.Context, bundle string) error {
	root := filepath.Join(bundle, "rootfs")
	if err := unix.Unmount(root, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err := os.Remove(root); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.roots, bundle)
	return nil
}

func (b *busyboxPuller) mounted() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.roots)
}

// limited bounds a call so that a test that hangs ends with a clear message.
func limited(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// container is a CreateContainer request as a shim sends it.
func (g *guest) container(id string, args ...string) *agentpb.CreateContainerRequest {
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"}
	rootfs := g.paths.bundle(id) + "/rootfs"
	return &agentpb.CreateContainerRequest{
		ContainerId: id, ExecId: id,
		Storages: []*agentpb.Storage{{
			Driver: "image_guest_pull", Source: "registry.example.com/app:1", Fstype: "overlay", MountPoint: rootfs,
			DriverOptions: []string{`image_guest_pull={"metadata":{"io.kubernetes.cri.container-type":"container"}}`},
		}},
		OCI: &agentpb.Spec{
			Version: "1.0.2",
			Process: &agentpb.Process{
				Args: args, Env: []string{"PATH=/bin"}, Cwd: "/", User: &agentpb.User{},
				Capabilities: &agentpb.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			},
			Root: &agentpb.Root{Path: rootfs},
			Mounts: []*agentpb.Mount{
				{Destination: "/proc", Source: "proc", Type: "proc"},
				{Destination: "/dev", Source: "tmpfs", Type: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
				{Destination: "/dev/pts", Source: "devpts", Type: "devpts", Options: []string{"newinstance", "ptmxmode=0666", "mode=0620"}},
			},
			Linux: &agentpb.Linux{
				CgroupsPath: "/" + cgroupParent() + "/" + filepath.Base(filepath.Dir(g.socket)) + filepath.Base(filepath.Dir(filepath.Dir(g.socket))) + "/" + id,
				Namespaces:  []*agentpb.LinuxNamespace{{Type: "ipc"}, {Type: "uts"}, {Type: "mount"}},
			},
		},
	}
}

// sandboxContainer is the request for a pod's pause container.
func (g *guest) sandboxContainer(id string) *agentpb.CreateContainerRequest {
	r := g.container(id, "/host-chosen")
	r.Storages[0].Source = "pause"
	r.Storages[0].DriverOptions = []string{`image_guest_pull={"metadata":{"io.kubernetes.cri.container-type":"sandbox"}}`}
	r.OCI.Annotations = map[string]string{"io.kubernetes.cri.container-type": "sandbox"}
	r.OCI.Root.Readonly = true
	return r
}

// created makes a sandbox and a container.
func (g *guest) created(t *testing.T, r *agentpb.CreateContainerRequest) {
	t.Helper()
	if _, err := g.CreateContainer(limited(t), r); err != nil {
		t.Fatal(err)
	}
}

// started makes and starts a container.
func (g *guest) started(t *testing.T, id string, args ...string) {
	t.Helper()
	g.created(t, g.container(id, args...))
	if _, err := g.StartContainer(limited(t), &agentpb.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
}

// output reads a stream to its end.
func (g *guest) output(t *testing.T, id, execID string) string {
	t.Helper()
	var all strings.Builder
	for {
		r, err := g.ReadStdout(limited(t), &agentpb.ReadStreamRequest{ContainerId: id, ExecId: execID, Len: 32768})
		if err != nil {
			t.Fatalf("read after %q: %v", all.String(), err)
		}
		if len(r.GetData()) == 0 {
			return all.String()
		}
		all.Write(r.GetData())
	}
}

// readUntil reads standard output until text has come.
func (g *guest) readUntil(t *testing.T, id, execID, text string) {
	t.Helper()
	var all strings.Builder
	for !strings.Contains(all.String(), text) {
		r, err := g.ReadStdout(limited(t), &agentpb.ReadStreamRequest{ContainerId: id, ExecId: execID, Len: 32768})
		if err != nil || len(r.GetData()) == 0 {
			t.Fatalf("output ended before %q: %q (%v)", text, all.String(), err)
		}
		all.Write(r.GetData())
	}
}

func (g *guest) wait(t *testing.T, id, execID string) int32 {
	t.Helper()
	r, err := g.WaitProcess(limited(t), &agentpb.WaitProcessRequest{ContainerId: id, ExecId: execID})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetStatus()
}

func (g *guest) remove(t *testing.T, id string) {
	t.Helper()
	if _, err := g.RemoveContainer(limited(t), &agentpb.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
}

// wantStatus checks code and a part of the text of an error from the wire.
func wantStatus(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	s, ok := status.FromError(err)
	if err == nil || !ok || s.Code() != code || !strings.Contains(s.Message(), text) {
		t.Errorf("error %v, want %v with %q", err, code, text)
	}
}
