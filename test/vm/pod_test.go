// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"cocoon/agent/agentctl/client"
	"cocoon/agent/policy"
	"cocoon/internal/wire/agentpb"
	"cocoon/mkimage/qemu"
	"cocoon/test/pki"
	"cocoon/test/vm"
	"cocoon/test/volume"
)

const (
	// diskPath is where the machine has the containers' root: the first slot
	// behind a bridge in slot 10 of the root bus.
	diskPath = "10/01"

	cycles    = 100
	execs     = 50
	podLimit  = 10 * time.Minute
	growthKiB = 16 << 10 // of the guest role over all cycles
)

// pod is a guest with the real binary, and a client that has come through TLS.
type pod struct {
	*client.Client
	t       *testing.T
	machine *vm.Guest
}

// buildGuest builds the image of a profile with the real binary.
func buildGuest(t *testing.T, of string) string {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "cocoon")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-tags", "netgo,osusergo,seccomp,runc_nocriu",
		"-ldflags", `-s -w -buildid= -linkmode external -extldflags "-static -Wl,--build-id=none"`, "-o", binary, "cocoon")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the guest: %v\n%s", err, out)
	}
	return build(t, named(t, of), binary, "")
}

// rootDisk makes a disk with the root of all containers: busybox and what a
// runtime mounts on.
func rootDisk(t *testing.T) string {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "root.img")
	if err := volume.Ext4(t.Context(), disk, rootTree(t), 16<<20); err != nil {
		t.Fatal(err)
	}
	return disk
}

// rootTree is the content of such a disk.
func rootTree(t *testing.T) string {
	t.Helper()
	content := t.TempDir()
	for _, dir := range []string{"bin", "proc", "dev", "sys/fs/cgroup", "run", "tmp"} {
		if err := os.MkdirAll(filepath.Join(content, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("the package busybox-static is needed: %v", err)
	}
	if err := os.WriteFile(filepath.Join(content, "bin/busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "cat", "sleep", "echo", "true", "tail", "yes", "ls", "sync", "dd"} {
		if err := os.Symlink("busybox", filepath.Join(content, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	return content
}

// needMachine skips where there is no QEMU or no kernel.
func needMachine(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(qemu.Binary); err != nil {
		t.Skipf("no QEMU: %v", err)
	}
	if os.Getenv(lockVariable) == "" {
		t.Skipf("%s is not set: run mkimage lock and point it to the lock file", lockVariable)
	}
}

// disk returns the arguments of QEMU for a disk in a slot behind the bridge.
func disk(name string, slot int, file string) []string {
	return []string{
		"-drive", "if=none,id=" + name + ",format=raw,readonly=on,file=" + file,
		"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,bus=bridge,addr=%#x", name, slot),
	}
}

// startPod boots a guest as a cloud would, with disks behind a bridge, and
// connects to its agent.
func startPod(t *testing.T, disks ...string) *pod {
	t.Helper()
	connect, g := launchPod(t, volume.Pod{}, disks...)
	if err := g.WaitFor(t.Context(), `"msg":"ready"`, limit); err != nil {
		t.Fatal(err)
	}
	return connect()
}

// launchPod boots such a guest and returns how to connect once it is ready.
func launchPod(t *testing.T, data volume.Pod, disks ...string) (connect func() *pod, machine *vm.Guest) {
	t.Helper()
	needMachine(t)
	ca, err := pki.NewAuthority("test authority")
	if err != nil {
		t.Fatal(err)
	}
	server, err := ca.Server("pod")
	if err != nil {
		t.Fatal(err)
	}
	adaptor, err := pki.SelfSignedClient("adaptor")
	if err != nil {
		t.Fatal(err)
	}
	owner := fmt.Sprintf("algorithm = \"sha256\"\nversion = \"0.1.0\"\n\n[data]\n\"policy.rego\" = '''\n%s'''\n", policy.AllowAll())
	data.Name, data.Cert, data.Key, data.ClientCA, data.Initdata = "pod", server.Cert, server.Key, adaptor.Cert, owner
	iso, err := data.UserData(t.Context(), filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	g, err := vm.Start(t.Context(), buildGuest(t, "dev"), vm.Options{
		CPUs: 2, MemoryMiB: 1024, Disks: []qemu.Disk{{File: iso, ReadOnly: true}}, GuestPorts: []int{15150}, Accel: "",
		Extra: append([]string{"-device", "pci-bridge,id=bridge,chassis_nr=1,addr=0x10"}, disks...),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return func() *pod { return connectPod(t, g, ca, adaptor) }, g
}

// connectPod connects to a guest's agent as cloud-api-adaptor does.
func connectPod(t *testing.T, g *vm.Guest, ca *pki.Authority, adaptor pki.KeyPair) *pod {
	t.Helper()
	cert, err := adaptor.TLS()
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Cert)
	c, err := client.Dial(t.Context(), client.Address{Network: "tcp", Host: g.Addr(15150)}, &tls.Config{
		RootCAs: roots, ServerName: "pod", Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			t.Log(err)
		}
	})
	return &pod{Client: c, t: t, machine: g}
}

// request is a container on the disk.
func (p *pod) request(id string, memory int64, args ...string) *agentpb.CreateContainerRequest {
	p.t.Helper()
	r, err := client.Container{ID: id, Image: "none", Args: args, Env: []string{"PATH=/bin"}}.Request()
	if err != nil {
		p.t.Fatal(err)
	}
	root := "/run/kata-containers/" + id + "/rootfs"
	r.Storages = []*agentpb.Storage{{Driver: "blk", Source: diskPath, Fstype: "ext4", Options: []string{"ro"}, MountPoint: root}}
	r.OCI.Root = &agentpb.Root{Path: root, Readonly: true}
	r.OCI.Mounts = append(r.OCI.Mounts, &agentpb.Mount{Destination: "/sys/fs/cgroup", Source: "cgroup", Type: "cgroup", Options: []string{"ro"}})
	if memory > 0 {
		r.OCI.Linux.Resources = &agentpb.LinuxResources{Memory: &agentpb.LinuxMemory{Limit: memory}}
	}
	return r
}

func (p *pod) create(ctx context.Context, r *agentpb.CreateContainerRequest) error {
	if _, err := p.AgentServiceService.CreateContainer(ctx, r); err != nil {
		return fmt.Errorf("create %s: %w", r.GetContainerId(), err)
	}
	return p.Start(ctx, r.GetContainerId())
}

func (p *pod) created(id string, memory int64, args ...string) {
	p.t.Helper()
	if err := p.create(p.t.Context(), p.request(id, memory, args...)); err != nil {
		p.t.Fatal(err)
	}
}

// output runs a command in a container and returns what it prints.
func (p *pod) output(ctx context.Context, id, exec string, args ...string) (string, error) {
	var out bytes.Buffer
	code, err := p.Exec(ctx, client.Command{ContainerID: id, ExecID: exec, Args: args, Env: []string{"PATH=/bin"}}, client.Streams{Stdout: &out})
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d", code)
	}
	return strings.TrimSpace(out.String()), err
}

// resident is the guest role's memory in KiB, from its own metrics.
func (p *pod) resident() int {
	p.t.Helper()
	m, err := p.AgentServiceService.GetMetrics(p.t.Context(), &agentpb.GetMetricsRequest{})
	if err != nil {
		p.t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^kata_agent_total_rss ([0-9.e+]+)$`).FindStringSubmatch(m.GetMetrics())
	if found == nil {
		p.t.Fatalf("no kata_agent_total_rss in:\n%s", m.GetMetrics())
	}
	bytes, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return int(bytes) / 1024
}

// TestAPodUnderLoad drives the real guest as a shim would: containers on a disk
// of the host, and everything that a shim asks for, much of it at once. Not
// parallel: a call of a shim may take a minute, which under emulation is little
// beside a second machine.
func TestAPodUnderLoad(t *testing.T) {
	needMachine(t)
	p := startPod(t, disk("root", 1, rootDisk(t))...)
	ctx, cancel := context.WithTimeout(t.Context(), podLimit)
	defer cancel()
	if err := p.CreateSandbox(ctx, "pod"); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"idle", "frozen", "limited"} {
		p.created(id, 0, "sleep", "100000")
	}
	p.created("busy", 0, "sh", "-c", "while :; do :; done")

	manyExecs(ctx, t, p)
	manyContainers(ctx, t, p)
	pauseAndResume(ctx, t, p)
	resize(ctx, t, p)
	outOfMemory(ctx, t, p)

	if err := p.DestroySandbox(ctx); err != nil {
		t.Fatal(err)
	}
	powersOff(t, p.machine)
	if c := p.machine.Console(); strings.Contains(c, `"level":"ERRO"`) || strings.Contains(c, "panic") {
		t.Errorf("errors on the console:\n%s", c)
	}
}

func manyExecs(ctx context.Context, t *testing.T, p *pod) {
	t.Helper()
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for i := range execs {
		g.Go(func() error {
			id := []string{"idle", "frozen", "limited"}[i%3]
			want := fmt.Sprint("process ", i)
			got, err := p.output(ctx, id, fmt.Sprint("exec-", i), "echo", want)
			if err != nil || got != want {
				return fmt.Errorf("exec %d: %q (%w)", i, got, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("%d processes at once beside a busy container took %v", execs, time.Since(began).Round(time.Millisecond))
}

func manyContainers(ctx context.Context, t *testing.T, p *pod) {
	t.Helper()
	cycle := func(i int) error {
		id := fmt.Sprintf("cycle-%d", i)
		if err := p.create(ctx, p.request(id, 0, "true")); err != nil {
			return err
		}
		if code, err := p.Attach(ctx, client.Process{ContainerID: id, ExecID: id}, client.Streams{}); err != nil || code != 0 {
			return fmt.Errorf("%s: exit code %d (%w)", id, code, err)
		}
		return p.Remove(ctx, id)
	}
	// What the first ones allocate stays allocated.
	for i := range 10 {
		if err := cycle(i); err != nil {
			t.Fatal(err)
		}
	}
	before, began := p.resident(), time.Now()
	g := new(errgroup.Group)
	g.SetLimit(4)
	for i := range cycles {
		g.Go(func() error { return cycle(10 + i) })
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	after := p.resident()
	t.Logf("%d containers took %v; the guest role has %d KiB, had %d", cycles, time.Since(began).Round(time.Millisecond), after, before)
	if after-before > growthKiB {
		t.Errorf("the guest role grew by %d KiB over %d containers", after-before, cycles)
	}
}

func pauseAndResume(ctx context.Context, t *testing.T, p *pod) {
	t.Helper()
	if _, err := p.AgentServiceService.PauseContainer(ctx, &agentpb.PauseContainerRequest{ContainerId: "frozen"}); err != nil {
		t.Fatal(err)
	}
	// A process that joins a frozen group stands still until it is thawed.
	var once sync.Once
	done := make(chan error, 1)
	go func() {
		_, err := p.output(ctx, "frozen", "late", "true")
		once.Do(func() { done <- err })
	}()
	if got, err := p.output(ctx, "idle", "meanwhile", "echo", "not frozen"); err != nil || got != "not frozen" {
		t.Errorf("another container: %q (%v)", got, err)
	}
	select {
	case err := <-done:
		// A refusal is as good: what must not be is that it ran.
		if err == nil {
			t.Error("a process ran in a paused container")
		}
		done <- nil
	default:
	}
	if _, err := p.AgentServiceService.ResumeContainer(ctx, &agentpb.ResumeContainerRequest{ContainerId: "frozen"}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Logf("the process that came while it was paused: %v", err)
	}
	if got, err := p.output(ctx, "frozen", "thawed", "echo", "runs again"); err != nil || got != "runs again" {
		t.Errorf("after the pause: %q (%v)", got, err)
	}
}

func resize(ctx context.Context, t *testing.T, p *pod) {
	t.Helper()
	quota := &agentpb.LinuxResources{Memory: &agentpb.LinuxMemory{Limit: 64 << 20}, CPU: &agentpb.LinuxCPU{Quota: 50000, Period: 100000}}
	if _, err := p.AgentServiceService.UpdateContainer(ctx, &agentpb.UpdateContainerRequest{ContainerId: "limited", Resources: quota}); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"memory.max": "67108864", "cpu.max": "50000 100000"} {
		got, err := p.output(ctx, "limited", "read-"+file, "cat", "/sys/fs/cgroup/"+file)
		if err != nil || got != want {
			t.Errorf("%s is %q (%v), want %q", file, got, err, want)
		}
	}
}

func outOfMemory(ctx context.Context, t *testing.T, p *pod) {
	t.Helper()
	p.created("greedy", 16<<20, "tail", "/dev/zero")
	e, err := p.AgentServiceService.GetOOMEvent(ctx, &agentpb.GetOOMEventRequest{})
	if err != nil || e.GetContainerId() != "greedy" {
		t.Errorf("event %v (%v)", e, err)
	}
	code, err := p.Attach(ctx, client.Process{ContainerID: "greedy", ExecID: "greedy"}, client.Streams{})
	if err != nil || code != 128+int(syscall.SIGKILL) {
		t.Errorf("exit code %d (%v)", code, err)
	}
	if err := p.Remove(ctx, "greedy"); err != nil {
		t.Error(err)
	}
}
