// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cocoon/agent/agentctl/fakeagent"
	"cocoon/internal/sharedtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve serves a fake agent and returns its address.
func serve(t *testing.T, a *fakeagent.Agent) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stop, err := a.Serve(l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return "unix://" + path
}

// ctl is one run of the command.
type ctl struct {
	code     int
	out, err string
}

func call(t *testing.T, addr, stdin string, args ...string) ctl {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(t.Context(), append([]string{"--connect", addr}, args...), terminal{
		in: strings.NewReader(stdin), out: &out, err: &errs, signals: make(chan os.Signal),
	})
	return ctl{code, out.String(), errs.String()}
}

func TestEveryCommandDoesItsWork(t *testing.T) {
	t.Parallel()
	policy := filepath.Join(t.TempDir(), "p.rego")
	if err := os.WriteFile(policy, []byte("package agent_policy\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args  []string
		stdin string
		code  int
		out   string // part of standard output
		calls []string
	}{
		"check":                                  {[]string{"check"}, "", 0, "serving", nil},
		"version":                                {[]string{"version"}, "", 0, "agent ", []string{"Version"}},
		"details":                                {[]string{"details"}, "", 0, "{", []string{"GetGuestDetails"}},
		"sandbox create":                         {[]string{"sandbox", "create", "s1", "--dns", "nameserver 10.0.0.1"}, "", 0, "", []string{"CreateSandbox"}},
		"sandbox destroy":                        {[]string{"sandbox", "destroy"}, "", 0, "", []string{"DestroySandbox"}},
		"run":                                    {[]string{"run", "--name", "c1", "img", "--", "echo", "hello"}, "", 0, "hello\n", []string{"CreateContainer", "StartContainer", "WaitProcess", "RemoveContainer"}},
		"run gives the exit code of the process": {[]string{"run", "img", "--", "fail", "7"}, "", 7, "", nil},
		"run copies standard input when asked":   {[]string{"run", "-i", "img", "--", "cat"}, "typed", 0, "typed", nil},
		"container create prints the id":         {[]string{"container", "create", "--name", "c2", "img", "--", "echo"}, "", 0, "c2\n", []string{"CreateContainer"}},
		"container create makes up an id":        {[]string{"container", "create", "img", "--", "echo"}, "", 0, "ctl-", nil},
		"policy set":                             {[]string{"policy", "set", policy}, "", 0, "", []string{"SetPolicy"}},
		"copy":                                   {[]string{"copy", policy, "/run/kata-containers/shared/containers/p"}, "", 0, "", []string{"CopyFile"}},
		"help":                                   {[]string{"--help"}, "", 0, "Available Commands", nil},
		"help of a command":                      {[]string{"run", "--help"}, "", 0, "Ctrl-C", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := fakeagent.New()
			got := call(t, serve(t, a), tc.stdin, tc.args...)
			if got.code != tc.code || !strings.Contains(got.out, tc.out) {
				t.Errorf("got %+v; want code %d and %q", got, tc.code, tc.out)
			}
			for _, c := range tc.calls {
				if !slices.Contains(a.Calls(), c) {
					t.Errorf("%s was not called: %v", c, a.Calls())
				}
			}
		})
	}
}

func TestAContainersLifeByHand(t *testing.T) {
	t.Parallel()
	a := fakeagent.New()
	addr := serve(t, a)
	for _, step := range []struct {
		args []string
		out  string
	}{
		{[]string{"container", "create", "--name", "web", "img", "--", "sleep"}, "web\n"},
		{[]string{"container", "start", "web"}, ""},
		{[]string{"exec", "web", "--", "echo", "second"}, "second\n"},
		{[]string{"stats", "web"}, "{"},
		{[]string{"signal", "web", "TERM"}, ""},
		{[]string{"container", "rm", "web"}, ""},
	} {
		if got := call(t, addr, "", step.args...); got.code != 0 || !strings.Contains(got.out, step.out) {
			t.Fatalf("%v: %+v", step.args, got)
		}
	}
	if n := a.Containers(); n != 0 {
		t.Errorf("%d containers are left", n)
	}
}

func TestEachFailureIsOneLineWithItsExitCode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.jsonl")
	if err := os.WriteFile(bad, []byte("{\"method\":\"no/such\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		code int
		says string
	}{
		"unknown command":         {[]string{"nosuch"}, 2, "unknown command"},
		"unknown flag":            {[]string{"check", "--nosuch"}, 2, "nosuch"},
		"missing argument":        {[]string{"signal", "web"}, 2, "accepts 2 arg"},
		"run without a command":   {[]string{"run", "img"}, 2, "needs an image and a command"},
		"exec without a command":  {[]string{"exec", "web"}, 2, "needs a container and a command"},
		"group without a command": {[]string{"sandbox"}, 2, "needs a sub-command"},
		"unknown sub-command":     {[]string{"policy", "bogus"}, 2, `unknown command "bogus"`},
		"bad kind":                {[]string{"run", "--kind", "vm", "img", "--", "echo"}, 2, "unknown kind"},
		"bad environment":         {[]string{"run", "--env", "FOO", "img", "--", "echo"}, 2, "not KEY=value"},
		"unknown signal":          {[]string{"signal", "web", "NOSUCH"}, 2, "unknown signal"},
		"bad address":             {[]string{"check", "--connect", "udp://x"}, 2, "udp://x"},
		"unreachable agent":       {[]string{"check", "--connect", "unix://" + dir + "/absent"}, 1, "no such file"},
		"TLS with a key alone":    {[]string{"check", "--tls-key", "k"}, 2, "CA"},
		"absent policy file":      {[]string{"policy", "set", dir + "/absent"}, 1, "no such file"},
		"bad recording":           {[]string{"replay", bad}, 1, "line 1"},
		"unknown container":       {[]string{"container", "start", "nosuch"}, 1, "nosuch"},
		"refused by policy":       {[]string{"sandbox", "create", "s"}, 1, "blocked by policy"},
		"image without a command": {[]string{"container", "create", "img"}, 2, "no command"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := call(t, serve(t, fakeagent.New("CreateSandbox")), "", tc.args...)
			if got.code != tc.code || !strings.Contains(got.err, tc.says) {
				t.Errorf("got %+v; want code %d and %q", got, tc.code, tc.says)
			}
			if strings.Count(got.err, "\n") != 1 || !strings.HasPrefix(got.err, "agentctl: ") {
				t.Errorf("the error is not one line of ours: %q", got.err)
			}
		})
	}
}

// notifyWriter closes seen at the first write.
type notifyWriter struct {
	once sync.Once
	seen chan struct{}
}

func (w *notifyWriter) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.seen) })
	return len(p), nil
}

func TestCtrlCAsksTheProcessToEnd(t *testing.T) {
	t.Parallel()
	signals := make(chan os.Signal)
	out := &notifyWriter{seen: make(chan struct{})}
	code := make(chan int, 1)
	var errs bytes.Buffer
	addr := serve(t, fakeagent.New())
	go func() {
		code <- run(context.WithoutCancel(t.Context()), []string{"-c", addr, "run", "img", "--", "sleep"}, terminal{
			in: strings.NewReader(""), out: out, err: &errs, signals: signals,
		})
	}()
	<-out.seen
	signals <- os.Interrupt
	if got := <-code; got != 128+15 {
		t.Errorf("exit code %d, want that of SIGTERM; %s", got, &errs)
	}
}

func TestCtrlCGivesUpAContainerThatIsBeingMade(t *testing.T) {
	t.Parallel()
	a := fakeagent.New()
	a.Hold("CreateContainer")
	addr := serve(t, a)
	signals := make(chan os.Signal)
	code := make(chan int, 1)
	var errs bytes.Buffer
	go func() {
		code <- run(context.WithoutCancel(t.Context()), []string{"-c", addr, "run", "img", "--", "sleep"}, terminal{
			in: strings.NewReader(""), out: &bytes.Buffer{}, err: &errs, signals: signals, patience: time.Nanosecond,
		})
	}()
	signals <- os.Interrupt
	if got := <-code; got != exitFailed || errs.Len() == 0 {
		t.Errorf("exit code %d, %q", got, &errs)
	}
}

func TestCtrlCEndsACommandThatOnlyAsks(t *testing.T) {
	t.Parallel()
	signals := make(chan os.Signal, 1)
	signals <- os.Interrupt
	addr := serve(t, fakeagent.New())
	var errs bytes.Buffer
	code := run(t.Context(), []string{"-c", addr, "stats", "web"}, terminal{in: strings.NewReader(""), out: &bytes.Buffer{}, err: &errs, signals: signals})
	if code != exitFailed || errs.Len() == 0 {
		t.Errorf("exit code %d, %q", code, &errs)
	}
}

func TestARecordedSessionIsReplayed(t *testing.T) {
	t.Parallel()
	got := call(t, serve(t, fakeagent.New()), "", "replay", "--grace", "100ms", sharedtest.Path(t, "recordings/ctr-run.jsonl"))
	if !strings.Contains(got.out, "grpc.AgentService/CreateContainer") || !strings.Contains(got.out, " ok\n") {
		t.Errorf("got %+v", got)
	}
}

func TestSignalsAreNamedOrNumbered(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{"TERM": 15, "sigkill": 9, "9": 9, "0": 0, "64": 64, "": -1, "65": -1, "SIGNOSUCH": -1, "-1": -1} {
		got, err := parseSignal(text)
		if want < 0 && err == nil || want >= 0 && (err != nil || int(got) != want) {
			t.Errorf("%q gives %d, %v; want %d", text, got, err, want)
		}
	}
}
