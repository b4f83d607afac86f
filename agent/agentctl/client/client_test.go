// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"cocoon/agent/agentctl/client"
	"cocoon/agent/agentctl/fakeagent"
	"cocoon/internal/sharedtest"
	"cocoon/internal/wire/agentpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connect serves a on a socket and returns a client.
func connect(t *testing.T, a *fakeagent.Agent) *client.Client {
	t.Helper()
	addr := serve(t, a, nil)
	c, err := client.Dial(t.Context(), addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // the agent's end is checked by serve
	return c
}

// serve serves a on a Unix socket, or on TCP with TLS if cfg is set.
func serve(t *testing.T, a *fakeagent.Agent, cfg *tls.Config) client.Address {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.sock")
	addr := client.Address{Network: "unix", Path: path}
	l, err := net.Listen("unix", path)
	if cfg != nil {
		l, err = tls.Listen("tcp", "127.0.0.1:0", cfg)
	}
	if err != nil {
		t.Fatal(err)
	}
	if cfg != nil {
		addr = client.Address{Network: "tcp", Host: l.Addr().String()}
	}
	stop, err := a.Serve(l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("stop the agent: %v", err)
		}
	})
	return addr
}

func container(id string, args ...string) client.Container {
	return client.Container{ID: id, Image: "registry.example/app:1", Args: args}
}

func TestARequestIsShapedLikeARealShimsOne(t *testing.T) {
	t.Parallel()
	calls, err := client.ReadRecording(bytes.NewReader(sharedtest.Read(t, "recordings/ctr-run.jsonl")))
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(calls, func(c client.Call) bool { return c.Method == "CreateContainer" })
	want := calls[i].Request.(*agentpb.CreateContainerRequest)
	got, err := client.Container{
		ID: "c2", Image: "registry.example/app:1", Args: []string{"/bin/sh", "-c", "echo hi"}, Env: []string{}, NetNS: "/run/netns/podns",
		Annotations: map[string]string{
			"io.katacontainers.pkg.oci.bundle_path": "/var/lib/host/ctd-state/io.containerd.runtime.v2.task/default/c2",
			"io.kubernetes.cri.sandbox-name":        "pod1", "io.kubernetes.cri.sandbox-namespace": "default",
			"nerdctl/network-namespace": "/run/netns/pod1",
		},
	}.Request()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("container (-shim +ours)\n%s", d)
	}
	i = slices.IndexFunc(calls, func(c client.Call) bool { return c.Method == "CreateSandbox" })
	if d := cmp.Diff(calls[i].Request, client.SandboxRequest("c2"), protocmp.Transform()); d != "" {
		t.Errorf("sandbox (-shim +ours)\n%s", d)
	}
}

func TestAnIncompleteContainerIsNotSent(t *testing.T) {
	t.Parallel()
	for name, k := range map[string]client.Container{
		"no id":        {Image: "i", Args: []string{"x"}},
		"no image":     {ID: "id", Args: []string{"x"}},
		"no command":   {ID: "id", Image: "i"},
		"unknown kind": {ID: "id", Image: "i", Args: []string{"x"}, Kind: "vm"},
	} {
		a := fakeagent.New()
		if _, err := connect(t, a).Run(t.Context(), k, client.Streams{}); err == nil {
			t.Errorf("%s: no error", name)
		}
		if calls := a.Calls(); len(calls) != 0 {
			t.Errorf("%s: the agent was asked for %v", name, calls)
		}
	}
}

func TestKindsAreAnnotated(t *testing.T) {
	t.Parallel()
	for kind, want := range map[string]string{client.PodSandbox: "sandbox", client.PodContainer: "container", client.Single: "", "": ""} {
		req, err := client.Container{ID: "id", Image: "i", Args: []string{"x"}, Kind: kind, SandboxID: "s", TTY: true}.Request()
		if err != nil {
			t.Fatal(err)
		}
		if got := req.GetOCI().GetAnnotations()["io.kubernetes.cri.container-type"]; got != want {
			t.Errorf("%q: got container type %q, want %q", kind, got, want)
		}
		if meta := req.GetStorages()[0].GetDriverOptions()[0]; want != "" && !strings.Contains(meta, `"io.kubernetes.cri.container-type":"`+want+`"`) {
			t.Errorf("%q: image metadata %s", kind, meta)
		}
		if env := req.GetOCI().GetProcess().GetEnv(); !slices.Contains(env, "TERM=xterm") {
			t.Errorf("%q: environment %v of a terminal", kind, env)
		}
	}
}

func TestRunReturnsOutputAndExitCodeAndRemoves(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		args                    []string
		stdin                   string
		code                    int
		wantStdout, wantsStderr string
	}{
		"success": {args: []string{"echo", "hello", "world"}, wantStdout: "hello world\n"},
		"failure": {args: []string{"fail", "3"}, code: 3, wantsStderr: "failing\n"},
		"stdin":   {args: []string{"cat"}, stdin: strings.Repeat("0123456789", 20), wantStdout: strings.Repeat("0123456789", 20)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := fakeagent.New()
			var stdout, stderr bytes.Buffer
			s := client.Streams{Stdout: &stdout, Stderr: &stderr}
			if tc.stdin != "" {
				s.Stdin = strings.NewReader(tc.stdin)
			}
			code, err := connect(t, a).Run(t.Context(), container("c1", tc.args...), s)
			if err != nil || code != tc.code || stdout.String() != tc.wantStdout || stderr.String() != tc.wantsStderr {
				t.Errorf("got code %d, %v, stdout %q, stderr %q", code, err, &stdout, &stderr)
			}
			if n := a.Containers(); n != 0 {
				t.Errorf("%d containers are left", n)
			}
		})
	}
}

func TestRunFollowsTheShimsOrder(t *testing.T) {
	t.Parallel()
	a := fakeagent.New()
	if _, err := connect(t, a).Run(t.Context(), container("c1", "echo"), client.Streams{}); err != nil {
		t.Fatal(err)
	}
	want := []string{"CreateContainer", "StartContainer", "WaitProcess", "RemoveContainer"}
	if d := cmp.Diff(want, a.Calls()); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestAFailedStepLeavesNoContainer(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"StartContainer", "ReadStdout", "ReadStderr", "WaitProcess"} {
		a := fakeagent.New(method)
		_, err := connect(t, a).Run(t.Context(), container("c1", "echo", "x"), client.Streams{})
		if status.Code(err) != codes.PermissionDenied && !strings.Contains(errText(err), "blocked by policy") {
			t.Errorf("%s: got %v", method, err)
		}
		if n := a.Containers(); n != 0 {
			t.Errorf("%s: %d containers are left", method, n)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestARefusedStdinIsReported(t *testing.T) {
	t.Parallel()
	a := fakeagent.New("WriteStdin")
	c := connect(t, a)
	signals := make(chan syscall.Signal, 1)
	out := writerFunc(func(p []byte) (int, error) {
		for !slices.Contains(a.Calls(), "WriteStdin") {
			runtime.Gosched()
		}
		signals <- syscall.SIGTERM
		return len(p), nil
	})
	r, w := io.Pipe()
	defer w.Close() // a pipe's Close gives no error
	_, err := c.Run(t.Context(), container("c1", "sleep"), client.Streams{Stdin: io.MultiReader(strings.NewReader("x"), r), Stdout: out, Signals: signals})
	if err == nil || !strings.Contains(err.Error(), "WriteStdinRequest is blocked by policy") {
		t.Errorf("got %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestSignalsReachTheProcess(t *testing.T) {
	t.Parallel()
	c := connect(t, fakeagent.New())
	signals := make(chan syscall.Signal, 1)
	out := writerFunc(func(p []byte) (int, error) {
		signals <- syscall.SIGTERM // it is ready
		return len(p), nil
	})
	code, err := c.Run(t.Context(), container("c1", "sleep"), client.Streams{Stdout: out, Signals: signals})
	if code != 128+15 || err != nil {
		t.Errorf("got %d, %v; want 143", code, err)
	}
}

func TestAChangeOfTheTerminalsSizeIsForwarded(t *testing.T) {
	t.Parallel()
	a := fakeagent.New()
	c := connect(t, a)
	resizes, signals := make(chan client.Size), make(chan syscall.Signal, 1)
	out := writerFunc(func(p []byte) (int, error) {
		resizes <- client.Size{Rows: 40, Columns: 120}
		for !slices.Contains(a.Calls(), "TtyWinResize") {
			runtime.Gosched()
		}
		signals <- syscall.SIGTERM
		return len(p), nil
	})
	k := container("c1", "sleep")
	k.TTY = true
	if _, err := c.Run(t.Context(), k, client.Streams{Stdout: out, Signals: signals, Resizes: resizes}); err != nil {
		t.Error(err)
	}
}

func TestAnAbandonedRunRemovesTheContainer(t *testing.T) {
	t.Parallel()
	a := fakeagent.New()
	c := connect(t, a)
	ctx, cancel := context.WithCancel(t.Context())
	out := writerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil })
	if _, err := c.Run(ctx, container("c1", "sleep"), client.Streams{Stdout: out}); err == nil {
		t.Error("no error")
	}
	if n := a.Containers(); n != 0 {
		t.Errorf("%d containers are left", n)
	}
}

func TestAFullDiskDoesNotBlockTheProcess(t *testing.T) {
	t.Parallel()
	full := errors.New("no space")
	c := connect(t, fakeagent.New())
	out := writerFunc(func([]byte) (int, error) { return 0, full })
	_, err := c.Run(t.Context(), container("c1", "cat"), client.Streams{Stdin: strings.NewReader(strings.Repeat("x", 100)), Stdout: out})
	if !errors.Is(err, full) {
		t.Errorf("got %v, want the writer's error", err)
	}
}

func TestExecRunsBesideTheContainer(t *testing.T) {
	t.Parallel()
	c := connect(t, fakeagent.New())
	if err := c.Create(t.Context(), container("c1", "sleep"), 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	code, err := c.Exec(t.Context(), client.Command{ContainerID: "c1", ExecID: "e1", Args: []string{"cat"}},
		client.Streams{Stdin: strings.NewReader("abcdefgh"), Stdout: &out})
	if code != 0 || err != nil || out.String() != "abcdefgh" {
		t.Errorf("got %d, %v, %q", code, err, &out)
	}
	for name, cmd := range map[string]client.Command{
		"no exec id":        {ContainerID: "c1", Args: []string{"cat"}},
		"id of the init":    {ContainerID: "c1", ExecID: "c1", Args: []string{"cat"}},
		"no command":        {ContainerID: "c1", ExecID: "e2"},
		"unknown container": {ContainerID: "zz", ExecID: "e2", Args: []string{"cat"}},
	} {
		if _, err := c.Exec(t.Context(), cmd, client.Streams{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := c.Remove(t.Context(), "c1"); err != nil {
		t.Error(err)
	}
}

func TestCopySendsATree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	big := strings.Repeat("0123456789abcdef", 1<<17) // two chunks of 1 MiB
	for name, content := range map[string]string{"a/empty": "", "a/big": big, "one": "1"} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../x", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	a := fakeagent.New()
	c := connect(t, a)
	const to = "/run/kata-containers/shared/containers/tree"
	if err := c.Copy(t.Context(), dir, to); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"": "40000", "/a": "40000", "/a/empty": "", "/a/big": big, "/one": "1", "/link": "../x"} {
		if got, ok := a.File(to + name); !ok || got != want {
			t.Errorf("%q: got %d bytes (%v), want %d", name, len(got), ok, len(want))
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, src := range map[string]string{"fifo": filepath.Join(dir, "fifo"), "absent": filepath.Join(dir, "absent")} {
		if err := c.Copy(t.Context(), src, to); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestARecordedSessionIsReplayed(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"ctr-run.jsonl", "cri-pod-full.jsonl"} {
		calls, err := client.ReadRecording(bytes.NewReader(sharedtest.Read(t, "recordings/"+name)))
		if err != nil {
			t.Fatal(err)
		}
		seen := make(map[int]bool)
		connect(t, fakeagent.New()).Replay(t.Context(), calls, time.Minute, func(a client.Answer) {
			seen[a.Number] = true
			if a.Err == nil && a.Response == nil {
				t.Errorf("%d %s: neither answer nor error", a.Number, a.Method)
			}
			if strings.HasSuffix(a.Method, "/CreateContainer") && a.Err != nil {
				t.Errorf("%d: %v", a.Number, a.Err)
			}
		})
		if len(seen) != len(calls) {
			t.Errorf("%s: %d answers to %d requests", name, len(seen), len(calls))
		}
	}
}

func TestReplayAbandonsWhatNeverAnswers(t *testing.T) {
	t.Parallel()
	calls, err := client.ReadRecording(strings.NewReader(`{"method": "grpc.AgentService/GetOOMEvent"}

{"method": "grpc.Health/Check", "body": {}}`))
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	connect(t, fakeagent.New()).Replay(t.Context(), calls, 20*time.Millisecond, func(a client.Answer) {
		order = append(order, a.Method)
		if (a.Err != nil) != strings.HasSuffix(a.Method, "GetOOMEvent") {
			t.Errorf("%s: %v", a.Method, a.Err)
		}
	})
	if d := cmp.Diff([]string{"grpc.Health/Check", "grpc.AgentService/GetOOMEvent"}, order); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestABadRecordingIsRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"{", "[]", `{"method": 1}`, `{"method": "CreateSandbox"}`, `{"method": "grpc.AgentService/Nope"}`, `{"method": "x.Y/Check"}`,
		`{"method": "grpc.AgentService/CreateSandbox", "body": {"nope": 1}}`, `{"method": "grpc.AgentService/CreateSandbox", "body": []}`,
		strings.Repeat("x", 9<<20),
	} {
		if _, err := client.ReadRecording(strings.NewReader(text)); err == nil {
			t.Errorf("%.40q: no error", text)
		}
	}
}

func TestSimpleCalls(t *testing.T) {
	t.Parallel()
	a := fakeagent.New()
	c := connect(t, a)
	if err := c.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if p, v, err := c.Version(t.Context()); p != "0.0.1" || v != "fake" || err != nil {
		t.Errorf("got %q, %q, %v", p, v, err)
	}
	if err := errors.Join(c.CreateSandbox(t.Context(), "s1", "nameserver 192.0.2.1"), c.SetPolicy(t.Context(), "package agent_policy"), c.DestroySandbox(t.Context())); err != nil {
		t.Error(err)
	}
	if a.Policy() != "package agent_policy" {
		t.Errorf("got policy %q", a.Policy())
	}
	refused := connect(t, fakeagent.New("Check", "Version", "CreateSandbox", "SetPolicy", "DestroySandbox", "SignalProcess"))
	_, _, err := refused.Version(t.Context())
	for _, err := range []error{
		err, refused.Check(t.Context()), refused.CreateSandbox(t.Context(), "s"), refused.SetPolicy(t.Context(), ""),
		refused.DestroySandbox(t.Context()), refused.Signal(t.Context(), client.Process{ContainerID: "c"}, 9),
	} {
		if status.Code(errors.Unwrap(err)) != codes.PermissionDenied {
			t.Errorf("got %v, want PERMISSION_DENIED", err)
		}
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]client.Address{
		"unix:///run/a.sock":    {Network: "unix", Path: "/run/a.sock"},
		"tcp://127.0.0.1:15150": {Network: "tcp", Host: "127.0.0.1:15150"},
		"tcp://[::1]:1":         {Network: "tcp", Host: "[::1]:1"},
		"vsock://3:1024":        {Network: "vsock", CID: 3, Port: 1024},
	} {
		if got, err := client.ParseAddress(s); err != nil || got != want {
			t.Errorf("%q: got %+v, %v", s, got, err)
		}
	}
	for _, s := range []string{
		"", "x", "/run/a.sock", "unix://", "unix://a.sock", "unix:///a\x00b", "tcp://", "tcp://h", "tcp://:1", "tcp://h:0", "tcp://h:65536",
		"tcp://h:http", "vsock://", "vsock://3", "vsock://x:1", "vsock://3:x", "vsock://4294967296:1", "vsock://-1:1", "http://h:1", "UNIX:///a",
	} {
		if got, err := client.ParseAddress(s); !errors.Is(err, client.ErrBadAddress) {
			t.Errorf("%q: got %+v, %v", s, got, err)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"unix:///run/a.sock", "tcp://[::1]:1", "vsock://3:1024", "://", "tcp://h:0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := client.ParseAddress(s)
		if (err == nil) == (a == client.Address{}) {
			t.Errorf("%q: got %+v with %v", s, a, err)
		}
	})
}

func FuzzReadRecording(f *testing.F) {
	f.Add([]byte(`{"method": "grpc.AgentService/CreateSandbox", "body": {"sandboxId": "s"}}`))
	f.Add([]byte(`{"method": "grpc.Health/Check", "timeout": "30.0s", "body": {}}` + "\n\n{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		calls, err := client.ReadRecording(bytes.NewReader(b))
		if err != nil && calls != nil {
			t.Errorf("%d calls with %v", len(calls), err)
		}
		for _, c := range calls {
			if c.Request == nil || c.Service == "" || c.Method == "" {
				t.Errorf("incomplete call %+v", c)
			}
		}
	})
}
