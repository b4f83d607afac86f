// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"cocoon/internal/wire/agentpb"
)

func TestStandardInputReachesTheProcess(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	big := strings.Repeat("0123456789abcde\n", 1<<14) // 256 KiB, more than the pipes hold
	for name, end := range map[string]func() error{
		"c-close": func() error {
			_, err := g.CloseStdin(limited(t), &agentpb.CloseStdinRequest{ContainerId: "c-close"})
			return err
		},
		"c-empty": func() error { // as runtime-rs ends it
			_, err := g.WriteStdin(limited(t), &agentpb.WriteStreamRequest{ContainerId: "c-empty"})
			return err
		},
	} {
		g.started(t, name, "cat")
		var wg sync.WaitGroup
		wg.Go(func() {
			for chunk := range slices.Chunk([]byte(big), 32<<10) { // as large as shims send
				w, err := g.WriteStdin(limited(t), &agentpb.WriteStreamRequest{ContainerId: name, ExecId: name, Data: chunk})
				if err != nil || int(w.GetLen()) != len(chunk) {
					t.Errorf("%s: wrote %d (%v)", name, w.GetLen(), err)
				}
			}
			if err := errors.Join(end(), end()); err != nil {
				t.Errorf("%s: end of input: %v", name, err)
			}
		})
		if got := g.output(t, name, ""); got != big {
			t.Errorf("%s: %d bytes came back, want %d", name, len(got), len(big))
		}
		wg.Wait()
		_, err := g.WriteStdin(limited(t), &agentpb.WriteStreamRequest{ContainerId: name, Data: []byte("x")})
		wantStatus(t, err, codes.Internal, "Cannot get writer")
		if code := g.wait(t, name, name); code != 0 {
			t.Errorf("%s: exit code %d", name, code)
		}
	}
}

func TestATerminalIsResized(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	r := g.container("tty", "sh", "-c", "read x; stty size")
	r.OCI.Process.Terminal = true
	g.created(t, r)
	if _, err := g.TtyWinResize(limited(t), &agentpb.TtyWinResizeRequest{ContainerId: "tty", Row: 33, Column: 132}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.StartContainer(limited(t), &agentpb.StartContainerRequest{ContainerId: "tty"}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.WriteStdin(limited(t), &agentpb.WriteStreamRequest{ContainerId: "tty", Data: []byte("\n")}); err != nil {
		t.Fatal(err)
	}
	if got := g.output(t, "tty", "tty"); !strings.Contains(got, "33 132") {
		t.Errorf("terminal size: %q", got)
	}
	g.started(t, "pipe", "sleep", "1000")
	_, err := g.TtyWinResize(limited(t), &agentpb.TtyWinResizeRequest{ContainerId: "pipe", Row: 1, Column: 1})
	wantStatus(t, err, codes.Unavailable, "no tty")
}

func TestAFurtherProcessRunsInTheContainer(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	g.started(t, "c1", "sleep", "1000")
	run := func(execID string, args ...string) error {
		_, err := g.ExecProcess(limited(t), &agentpb.ExecProcessRequest{
			ContainerId: "c1", ExecId: execID, Process: &agentpb.Process{Args: args, Env: []string{"PATH=/bin"}, Cwd: "/"},
		})
		return err
	}
	if err := run("e1", "sh", "-c", "echo out; echo err >&2; exit 5"); err != nil {
		t.Fatal(err)
	}
	if got := g.output(t, "c1", "e1"); got != "out\n" {
		t.Errorf("output %q", got)
	}
	if r, err := g.ReadStderr(limited(t), &agentpb.ReadStreamRequest{ContainerId: "c1", ExecId: "e1", Len: 99}); err != nil || string(r.GetData()) != "err\n" {
		t.Errorf("error output %q (%v)", r.GetData(), err)
	}
	wantStatus(t, run("e1", "true"), codes.Internal, "exec_id 'e1' already exists")
	if code := g.wait(t, "c1", "e1"); code != 5 {
		t.Errorf("exit code %d", code)
	}
	_, err := g.WaitProcess(limited(t), &agentpb.WaitProcessRequest{ContainerId: "c1", ExecId: "e1"})
	wantStatus(t, err, codes.NotFound, "invalid exec id")
	wantStatus(t, run("e2", "/no/such/file"), codes.Internal, "the file /no/such/file was not found")
	wantStatus(t, run("../e", "true"), codes.InvalidArgument, "invalid id")
	wantStatus(t, run("c1", "true"), codes.Internal, "already exists")
	wantStatus(t, run("", "true"), codes.InvalidArgument, "invalid id")
	_, err = g.ExecProcess(limited(t), &agentpb.ExecProcessRequest{ContainerId: "c1", ExecId: "e3"})
	wantStatus(t, err, codes.InvalidArgument, "Unable to parse process from ExecProcessRequest")
	_, err = g.ExecProcess(limited(t), &agentpb.ExecProcessRequest{ContainerId: "none", ExecId: "e3", Process: &agentpb.Process{Args: []string{"true"}}})
	wantStatus(t, err, codes.Internal, "Invalid container id")
}

func TestEveryWaiterGetsTheExitCode(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	g.started(t, "c1", "sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.01; done")
	g.readUntil(t, "c1", "", "up")
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			if code := g.wait(t, "c1", []string{"", "c1"}[i%2]); code != 9 {
				t.Errorf("exit code %d", code)
			}
		})
	}
	for g.agent.calls.Load() < 10 {
		if _, err := g.GetGuestDetails(limited(t), &agentpb.GuestDetailsRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.SignalProcess(limited(t), &agentpb.SignalProcessRequest{ContainerId: "c1", ExecId: "c1", Signal: 15}); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	_, err := g.SignalProcess(limited(t), &agentpb.SignalProcessRequest{ContainerId: "c1", ExecId: "c1", Signal: 15})
	wantStatus(t, err, codes.NotFound, "init process missing")
	_, err = g.SignalProcess(limited(t), &agentpb.SignalProcessRequest{ContainerId: "c1", Signal: 1 << 31})
	wantStatus(t, err, codes.InvalidArgument, "signal")
	if _, err := g.SignalProcess(limited(t), &agentpb.SignalProcessRequest{ContainerId: "c1", Signal: 9}); err != nil {
		t.Errorf("SIGKILL to what is left of a container: %v", err)
	}
}

func TestRequestsForUnknownContainersAreRefused(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	for _, tc := range []struct {
		method string
		req    proto.Message
		code   codes.Code
		text   string
	}{
		{"StartContainer", &agentpb.StartContainerRequest{ContainerId: "x1"}, codes.Internal, "Invalid container id"},
		{"RemoveContainer", &agentpb.RemoveContainerRequest{ContainerId: "x1"}, codes.Internal, "Invalid container id"},
		{"SignalProcess", &agentpb.SignalProcessRequest{ContainerId: "x1"}, codes.InvalidArgument, "Invalid container id"},
		{"WaitProcess", &agentpb.WaitProcessRequest{ContainerId: "x1"}, codes.InvalidArgument, "Invalid container id"},
		{"UpdateContainer", &agentpb.UpdateContainerRequest{ContainerId: "x1"}, codes.InvalidArgument, "invalid container id"},
		{"StatsContainer", &agentpb.StatsContainerRequest{ContainerId: "../x"}, codes.InvalidArgument, "invalid container id"},
		{"PauseContainer", &agentpb.PauseContainerRequest{ContainerId: ""}, codes.InvalidArgument, "invalid container id"},
		{"ResumeContainer", &agentpb.ResumeContainerRequest{ContainerId: "\x01"}, codes.InvalidArgument, "invalid container id"},
		{"WriteStdin", &agentpb.WriteStreamRequest{ContainerId: "x1"}, codes.InvalidArgument, "Invalid container id"},
		{"ReadStdout", &agentpb.ReadStreamRequest{ContainerId: "x1", Len: 1}, codes.InvalidArgument, "Invalid container id"},
		{"ReadStderr", &agentpb.ReadStreamRequest{ContainerId: "x1", Len: 1}, codes.InvalidArgument, "Invalid container id"},
		{"CloseStdin", &agentpb.CloseStdinRequest{ContainerId: "x1"}, codes.InvalidArgument, "Invalid container id"},
		{"TtyWinResize", &agentpb.TtyWinResizeRequest{ContainerId: "x1"}, codes.InvalidArgument, "Invalid container id"},
		{"GetDiagnosticData", &agentpb.GetDiagnosticDataRequest{ContainerId: "x1", LogType: "termination_log"}, codes.InvalidArgument, "Invalid container id"},
		{"GetDiagnosticData", &agentpb.GetDiagnosticDataRequest{ContainerId: "x1", LogType: "journal"}, codes.InvalidArgument, "journal"},
		{"ReseedRandomDev", &agentpb.ReseedRandomDevRequest{}, codes.InvalidArgument, "seed of 0 bytes"},
		{"ReseedRandomDev", &agentpb.ReseedRandomDevRequest{Data: make([]byte, maxSeed+1)}, codes.InvalidArgument, "seed"},
	} {
		wantStatus(t, g.client.Call(limited(t), "grpc.AgentService", tc.method, tc.req, &agentpb.StatsContainerResponse{}), tc.code, tc.text)
	}
}

func TestStatisticsPauseAndResume(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	g.started(t, "c1", "sleep", "1000")
	s, err := g.StatsContainer(limited(t), &agentpb.StatsContainerRequest{ContainerId: "c1"})
	if err != nil || s.GetCgroupStats().GetCpuStats().GetCpuUsage().GetTotalUsage() == 0 || s.GetCgroupStats().GetMemoryStats().GetUsage().GetUsage() == 0 {
		t.Errorf("%v (%v)", s, err)
	}
	_, err = g.ResumeContainer(limited(t), &agentpb.ResumeContainerRequest{ContainerId: "c1"})
	wantStatus(t, err, codes.Internal, "not paused")
	if _, err := g.PauseContainer(limited(t), &agentpb.PauseContainerRequest{ContainerId: "c1"}); err != nil {
		t.Fatal(err)
	}
	_, err = g.PauseContainer(limited(t), &agentpb.PauseContainerRequest{ContainerId: "c1"})
	wantStatus(t, err, codes.Internal, "paused")
	if _, err := g.ResumeContainer(limited(t), &agentpb.ResumeContainerRequest{ContainerId: "c1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.UpdateContainer(limited(t), &agentpb.UpdateContainerRequest{
		ContainerId: "c1", Resources: &agentpb.LinuxResources{Memory: &agentpb.LinuxMemory{Limit: 64 << 20}},
	}); err != nil {
		t.Fatal(err)
	}
	s, err = g.StatsContainer(limited(t), &agentpb.StatsContainerRequest{ContainerId: "c1"})
	if err != nil || s.GetCgroupStats().GetMemoryStats().GetUsage().GetLimit() != 64<<20 {
		t.Errorf("limit after the update: %v (%v)", s.GetCgroupStats().GetMemoryStats().GetUsage(), err)
	}
}

func TestGuestDetails(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	r, err := g.GetGuestDetails(limited(t), &agentpb.GuestDetailsRequest{MemBlockSize: true, MemHotplugProbe: true})
	if err != nil {
		t.Fatal(err)
	}
	d := r.GetAgentDetails()
	if d.GetVersion() != "4.1.0" || !d.GetSupportsSeccomp() || !slices.Equal(d.GetDeviceHandlers(), deviceTypes()) ||
		!slices.Equal(d.GetStorageHandlers(), []string{
			"bind", "blk", "blk-ccw", "ephemeral", "erofs.multi-layer", "image_guest_pull", "local", "mmioblk", "nvdimm", "overlayfs", "scsi", "virtio-fs", "watchable-bind",
		}) {
		t.Errorf("details: %v", d)
	}
	_, err = os.Stat("/sys/devices/system/memory/probe")
	if r.GetSupportMemHotplugProbe() != (err == nil) {
		t.Errorf("hot-plug probe: %t", r.GetSupportMemHotplugProbe())
	}
}

func TestAMemoryBlockSizeIsHexadecimal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for text, want := range map[string]uint64{"8000000\n": 128 << 20, "": 0, "xyz": 0} {
		file := filepath.Join(dir, "size")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := blockSize(file); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d (%v), want %d", text, got, err, want)
		}
	}
	if got, err := blockSize(filepath.Join(dir, "absent")); got != 0 || err != nil {
		t.Errorf("no file: %d (%v)", got, err)
	}
}

func TestTheContainersOfAPodShareWhatTheyShould(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	if _, err := g.CreateSandbox(limited(t), &agentpb.CreateSandboxRequest{Hostname: "the-pod", SandboxId: "pod"}); err != nil {
		t.Fatal(err)
	}
	g.created(t, g.sandboxContainer("pod"))
	if _, err := g.StartContainer(limited(t), &agentpb.StartContainerRequest{ContainerId: "pod"}); err != nil {
		t.Fatal(err)
	}
	const script = "hostname; readlink /proc/self/ns/uts; readlink /proc/self/ns/ipc; readlink /proc/self/ns/pid; cat /proc/1/comm"
	out := map[string][]string{}
	for id, sharePID := range map[string]bool{"c1": true, "c2": true, "c3": false} {
		r := g.container(id, "sh", "-c", script)
		r.SandboxPidns = sharePID
		// A path from the host counts for the network only.
		r.OCI.Linux.Namespaces = append(r.OCI.Linux.Namespaces, &agentpb.LinuxNamespace{Type: "pid", Path: "/proc/1/ns/pid"})
		g.created(t, r)
		if _, err := g.StartContainer(limited(t), &agentpb.StartContainerRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
		out[id] = strings.Fields(g.output(t, id, ""))
		if len(out[id]) != 5 {
			t.Fatalf("%s says %q", id, out[id])
		}
	}
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := out["c1"], out["c2"], out["c3"]
	if a[0] != "the-pod" || !slices.Equal(a[:3], b[:3]) || !slices.Equal(a[:3], c[:3]) {
		t.Errorf("host name, uts and ipc are not shared: %q %q %q", a, b, c)
	}
	if a[3] != b[3] || a[3] == c[3] || a[3] == own || c[3] == own || a[4] != "pause" || c[4] == "pause" {
		t.Errorf("process ids: %q %q %q, the host's own %s", a, b, c, own)
	}
	host, err := os.Hostname()
	if err != nil || host == "the-pod" {
		t.Errorf("the host is called %q (%v)", host, err)
	}
}

func TestProcessIDsCannotBeSharedWithAnEndedPod(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	g.started(t, "first", "sleep", "1000")
	g.started(t, "other", "sleep", "1000")
	g.remove(t, "first")
	r := g.container("late", "true")
	r.SandboxPidns = true
	_, err := g.CreateContainer(limited(t), r)
	wantStatus(t, err, codes.Internal, "no pid namespace to share")
	g.remove(t, "other")
	g.created(t, r) // alone, it makes the namespace
}

func TestDNSEntriesAreMountedOverTheGuestsOwn(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	if err := os.WriteFile(g.paths.ResolvConf, []byte("guest\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]string{{"a\nb"}, {"a\x00"}, {strings.Repeat("x", maxResolvConf)}} {
		_, err := g.CreateSandbox(limited(t), &agentpb.CreateSandboxRequest{Dns: bad})
		wantStatus(t, err, codes.InvalidArgument, "DNS")
	}
	if _, err := g.CreateSandbox(limited(t), &agentpb.CreateSandboxRequest{Dns: []string{" nameserver 10.96.0.10 ", "search svc.local"}}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(g.paths.ResolvConf)
	if err != nil || string(b) != "nameserver 10.96.0.10\nsearch svc.local\n" {
		t.Errorf("resolver configuration %q (%v)", b, err)
	}
	if _, err := g.DestroySandbox(limited(t), &agentpb.DestroySandboxRequest{}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(g.paths.ResolvConf); err != nil || string(b) != "guest\n" {
		t.Errorf("after the sandbox: %q (%v)", b, err)
	}
}

func TestATerminationMessageIsReadFromTheGuestsFile(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	source := g.paths.Shared + "/c1-termination-log"
	if _, err := g.CopyFile(limited(t), &agentpb.CopyFileRequest{Path: source, FileMode: unix.S_IFREG | 0o666}); err != nil {
		t.Fatal(err)
	}
	r := g.container("c1", "sh", "-c", `head -c 5000 /dev/zero | tr '\0' 'x' > /dev/termination-log; echo done`)
	r.OCI.Annotations = map[string]string{terminationMessage: "/dev/termination-log"}
	r.OCI.Mounts = append(r.OCI.Mounts, &agentpb.Mount{Destination: "/dev/termination-log", Source: source, Type: "bind", Options: []string{"rbind", "rw"}})
	g.created(t, r)
	if _, err := g.StartContainer(limited(t), &agentpb.StartContainerRequest{ContainerId: "c1"}); err != nil {
		t.Fatal(err)
	}
	if out := g.output(t, "c1", ""); out != "done\n" {
		t.Fatalf("output %q", out)
	}
	d, err := g.GetDiagnosticData(limited(t), &agentpb.GetDiagnosticDataRequest{LogType: "termination_log", ContainerId: "c1"})
	if err != nil || d.GetData() != strings.Repeat("x", maxTermination) {
		t.Errorf("%d bytes (%v)", len(d.GetData()), err)
	}
	g.created(t, g.container("c2", "true"))
	_, err = g.GetDiagnosticData(limited(t), &agentpb.GetDiagnosticDataRequest{LogType: "termination_log", ContainerId: "c2"})
	wantStatus(t, err, codes.Internal, "no annotation")
}

func TestAnOOMKillIsReportedOnce(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	r := g.container("hungry", "sh", "-c", "dd if=/dev/zero of=/dev/null bs=256M count=1; echo survived $?; sleep 1000")
	r.OCI.Linux.Resources = &agentpb.LinuxResources{Memory: &agentpb.LinuxMemory{Limit: 64 << 20}}
	g.created(t, r)
	if _, err := g.StartContainer(limited(t), &agentpb.StartContainerRequest{ContainerId: "hungry"}); err != nil {
		t.Fatal(err)
	}
	e, err := g.GetOOMEvent(limited(t), &agentpb.GetOOMEventRequest{})
	if err != nil || e.GetContainerId() != "hungry" {
		t.Fatalf("%v (%v)", e, err)
	}
}

func TestAPolicyIsReplacedByAValidOneOnly(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	_, err := g.SetPolicy(limited(t), &agentpb.SetPolicyRequest{Policy: "package agent_policy\nthis is no rego"})
	wantStatus(t, err, codes.InvalidArgument, "")
	if _, err := g.GetGuestDetails(limited(t), &agentpb.GuestDetailsRequest{}); err != nil {
		t.Errorf("the policy in force is gone: %v", err)
	}
	if _, err := g.SetPolicy(limited(t), &agentpb.SetPolicyRequest{
		Policy: "package agent_policy\ndefault GuestDetailsRequest := false\ndefault SetPolicyRequest := false\n",
	}); err != nil {
		t.Fatal(err)
	}
	_, err = g.GetGuestDetails(limited(t), &agentpb.GuestDetailsRequest{})
	wantStatus(t, err, codes.PermissionDenied, "GuestDetailsRequest is blocked by policy")
	_, err = g.SetPolicy(limited(t), &agentpb.SetPolicyRequest{Policy: "package agent_policy\n"})
	wantStatus(t, err, codes.PermissionDenied, "SetPolicyRequest is blocked by policy")
}

func TestOutputThatThePolicyHidesDoesNotBlockTheProcess(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{policy: strings.ReplaceAll(allowAllBut("ReadStreamRequest"), "\r", "")})
	g.started(t, "c1", "sh", "-c", "head -c 4000000 /dev/zero; head -c 4000000 /dev/zero >&2; exit 3")
	for range 2 {
		out, err := g.ReadStdout(limited(t), &agentpb.ReadStreamRequest{ContainerId: "c1", ExecId: "c1", Len: 4096})
		if err != nil || len(out.GetData()) > 0 {
			t.Errorf("stdout: %d bytes (%v)", len(out.GetData()), err)
		}
		errOut, err := g.ReadStderr(limited(t), &agentpb.ReadStreamRequest{ContainerId: "c1", ExecId: "c1", Len: 4096})
		if err != nil || len(errOut.GetData()) > 0 {
			t.Errorf("stderr: %d bytes (%v)", len(errOut.GetData()), err)
		}
	}
	if code := g.wait(t, "c1", "c1"); code != 3 {
		t.Errorf("exit code %d", code)
	}
	// A stream that does not exist is nobody's trouble.
	if r, err := g.ReadStdout(limited(t), &agentpb.ReadStreamRequest{ContainerId: "none", Len: 1}); err != nil || len(r.GetData()) > 0 {
		t.Errorf("%v (%v)", r, err)
	}
}

// allowAllBut is a policy that denies one request.
func allowAllBut(denied string) string {
	var b strings.Builder
	b.WriteString("package agent_policy\n")
	methods := agentpb.File_agent_agent_proto.Services().ByName("AgentService").Methods()
	seen := map[string]bool{}
	for i := range methods.Len() {
		name := string(methods.Get(i).Input().Name())
		if seen[name] {
			continue
		}
		seen[name] = true
		verdict := "true"
		if name == denied {
			verdict = "false"
		}
		b.WriteString("default " + name + " := " + verdict + "\n")
	}
	return b.String()
}
