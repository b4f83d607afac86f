// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// cgroupV2Env makes the test binary see a host with nothing but cgroup v2. It
// is set by TestEverythingOnCgroupV2 for a child in its own mount namespace.
const cgroupV2Env = "RUNTIME_TEST_CGROUP_V2"

func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		libcontainer.Init()
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(cgroupV2Env) != "" {
		if err := onlyCgroupV2(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	logrus.SetOutput(io.Discard)
	code := m.Run()
	removeCgroupParents()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func onlyCgroupV2() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Unmount("/sys/fs/cgroup", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount cgroups: %w", err)
	}
	if err := unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mount cgroup2: %w", err)
	}
	return nil
}

func cgroupParent() string { return fmt.Sprintf("cocoon-test-%d", os.Getpid()) }

// removeCgroupParents removes the empty directories that every container
// leaves above its own cgroup.
func removeCgroupParents() {
	parent := cgroupParent()
	for _, pattern := range []string{
		"/sys/fs/cgroup/" + parent + "/cri", "/sys/fs/cgroup/*/" + parent + "/cri", // children first
		"/sys/fs/cgroup/" + parent, "/sys/fs/cgroup/*/" + parent,
	} {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			continue
		}
		for _, d := range dirs {
			if err := unix.Rmdir(d); err != nil {
				fmt.Fprintln(os.Stderr, "remove", d, err)
			}
		}
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("containers need root")
	}
	if _, err := exec.LookPath("busybox"); err != nil {
		t.Skip("no busybox for a root file system")
	}
}

func newTestRuntime(t testing.TB) *Runtime {
	t.Helper()
	needRoot(t)
	r, err := New(Config{
		StateDir: filepath.Join(t.TempDir(), "state"),
		Log:      slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// busyboxRoot builds a root file system of a static busybox.
func busyboxRoot(t testing.TB) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "rootfs")
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp", "etc", "masked"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "bin/busybox"), string(data), 0o755)
	write(t, filepath.Join(root, "etc/passwd"), "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n", 0o644)
	write(t, filepath.Join(root, "masked/secret"), "secret", 0o644)
	for _, name := range strings.Fields("sh true false sleep cat echo id mkdir stty kill ls touch stat grep dd wc hostname tail printf") {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o1777); err != nil {
		t.Fatal(err)
	}
	return root
}

func write(t testing.TB, path, data string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), mode); err != nil {
		t.Fatal(err)
	}
}

var defaultCaps = []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"}

func testProcess(args ...string) *specs.Process {
	return &specs.Process{
		Args: args, Cwd: "/", Env: []string{"PATH=/bin"},
		Capabilities: &specs.LinuxCapabilities{Bounding: defaultCaps, Effective: defaultCaps, Permitted: defaultCaps},
	}
}

func testSpec(root, id string, args ...string) *specs.Spec {
	return &specs.Spec{
		Version: specs.Version,
		Process: testProcess(args...),
		Root:    &specs.Root{Path: root},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: cgroupParent() + ":" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			},
		},
	}
}

// testID makes a container id of a test's name.
func testID(t testing.TB) string {
	id := strings.NewReplacer("/", "-", "#", "-", ",", "-", "'", "-", "+", "-").Replace(t.Name())
	return id[:min(len(id), 200)]
}

// created makes a container that is deleted at the end of the test.
func created(t testing.TB, r *Runtime, spec *specs.Spec) *Container {
	t.Helper()
	c, err := r.Create(t.Context(), CreateRequest{ID: testID(t), Bundle: "/", Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

// running creates and starts a container of a busybox.
func running(t testing.TB, edit func(*specs.Spec), args ...string) *Container {
	t.Helper()
	r := newTestRuntime(t)
	spec := testSpec(busyboxRoot(t), testID(t), args...)
	if edit != nil {
		edit(spec)
	}
	c := created(t, r, spec)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func process(t testing.TB, c *Container, execID string) *Process {
	t.Helper()
	p, err := c.Process(execID)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// limited gives a test that hangs a clear end.
func limited(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func waitCode(t testing.TB, p *Process) int {
	t.Helper()
	code, err := p.Wait(limited(t))
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// readAll reads a stream to its end.
func readAll(t testing.TB, read func(context.Context, int) ([]byte, error)) string {
	t.Helper()
	var all strings.Builder
	ctx := limited(t)
	for {
		b, err := read(ctx, 4096)
		if err != nil {
			t.Fatalf("after %q: %v", all.String(), err)
		}
		if len(b) == 0 {
			return all.String()
		}
		all.Write(b)
	}
}

// readUntil reads until the text was seen.
func readUntil(t testing.TB, p *Process, text string) string {
	t.Helper()
	var all strings.Builder
	ctx := limited(t)
	for !strings.Contains(all.String(), text) {
		b, err := p.ReadStdout(ctx, 4096)
		if err != nil || len(b) == 0 {
			t.Fatalf("stream ended before %q: %q, %v", text, all.String(), err)
		}
		all.Write(b)
	}
	return all.String()
}

// run runs a command line in a new container and returns its output and code.
func run(t testing.TB, edit func(*specs.Spec), script string) (string, int) {
	t.Helper()
	c := running(t, edit, "sh", "-c", script)
	p := process(t, c, "")
	out := readAll(t, p.ReadStdout)
	if text := readAll(t, p.ReadStderr); text != "" {
		t.Logf("stderr: %s", text)
	}
	return out, waitCode(t, p)
}

func pidText(c *Container) string { return strconv.Itoa(c.InitPID()) }
