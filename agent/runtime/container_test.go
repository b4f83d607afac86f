// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestExitCodesAreThoseOfTheProgram(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		script string
		code   int
	}{
		{"exit 0", 0},
		{"exit 7", 7},
		{"exit 255", 255},
		{"sh -c 'kill -SEGV $$'; exit $?", 139},
		{"exec no-such-program", 127},
	} {
		t.Run(tc.script[:6], func(t *testing.T) {
			t.Parallel()
			if _, code := run(t, nil, tc.script); code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
		})
	}
}

func TestASignalledProcessReports128PlusTheSignal(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sleep", "1000")
	if err := c.Exec(t.Context(), "sleeper", testProcess("sleep", "1000")); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		execID string
		sig    unix.Signal
		code   int
	}{
		{"sleeper", unix.SIGUSR1, 128 + 10},
		{testID(t), unix.SIGTERM, 128 + 9}, // no handler: the kernel would drop SIGTERM
	} {
		p := process(t, c, tc.execID)
		if err := c.Signal(t.Context(), tc.execID, 0); err != nil {
			t.Errorf("signal 0 to %q: %v", tc.execID, err)
		}
		if err := c.Signal(t.Context(), tc.execID, tc.sig); err != nil {
			t.Fatal(err)
		}
		if code := waitCode(t, p); code != tc.code {
			t.Errorf("%q: code %d, want %d", tc.execID, code, tc.code)
		}
		if err := c.Signal(t.Context(), tc.execID, tc.sig); err != nil {
			t.Errorf("signal to ended %q: %v", tc.execID, err)
		}
	}
}

func TestInitThatHandlesSIGTERMGetsIt(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done")
	p := process(t, c, "")
	readUntil(t, p, "ready")
	if err := c.Signal(t.Context(), "", unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := waitCode(t, p); code != 3 {
		t.Errorf("code %d, want that of the handler", code)
	}
}

func TestSIGKILLWithoutExecIDKillsTheWholeCgroup(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sleep", "1000")
	if err := c.Exec(t.Context(), "other", testProcess("sh", "-c", "sleep 1000 & echo up; wait")); err != nil {
		t.Fatal(err)
	}
	readUntil(t, process(t, c, "other"), "up")
	if err := c.Signal(t.Context(), "", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", "other"} {
		if code := waitCode(t, process(t, c, id)); code != 137 {
			t.Errorf("%q: code %d, want 137", id, code)
		}
	}
}

func TestNothingRunsBeforeStart(t *testing.T) {
	t.Parallel()
	r := newTestRuntime(t)
	root := busyboxRoot(t)
	c := created(t, r, testSpec(root, testID(t), "touch", "/ran"))
	if err := unix.Kill(c.InitPID(), 0); err != nil {
		t.Errorf("init is not there: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(root, "ran")); err == nil {
		t.Error("the program ran before Start")
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code := waitCode(t, process(t, c, "")); code != 0 {
		t.Errorf("code %d", code)
	}
	if _, err := os.Lstat(filepath.Join(root, "ran")); err != nil {
		t.Error(err)
	}
	if err := c.Start(t.Context()); !errors.Is(err, ErrStarted) {
		t.Errorf("second start: %v", err)
	}
}

func TestSIGTERMBeforeStartEndsInit(t *testing.T) {
	t.Parallel()
	c := created(t, newTestRuntime(t), testSpec(busyboxRoot(t), testID(t), "true"))
	if err := c.Signal(t.Context(), "", unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := waitCode(t, process(t, c, "")); code != 137 {
		t.Errorf("code %d, want 137", code)
	}
}

func TestStartOfADeadInitIsAnError(t *testing.T) {
	t.Parallel()
	c := created(t, newTestRuntime(t), testSpec(busyboxRoot(t), testID(t), "true"))
	if err := c.Signal(t.Context(), "", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitCode(t, process(t, c, ""))
	if err := c.Start(t.Context()); !errors.Is(err, ErrInitGone) {
		t.Errorf("start: %v", err)
	}
}

func TestEveryWaiterGetsTheCode(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sh", "-c", "read x; exit 5")
	p := process(t, c, "")
	var wg sync.WaitGroup
	codes := make([]int, 20)
	for i := range codes {
		wg.Go(func() { codes[i] = waitCode(t, p) })
	}
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Wait(impatient); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled wait: %v", err)
	}
	p.CloseStdin()
	wg.Wait()
	for i, code := range codes {
		if code != 5 {
			t.Errorf("waiter %d got %d", i, code)
		}
	}
	c.Forget("")
	c.Forget("")
	for _, id := range []string{"", c.ID()} {
		if _, err := c.Process(id); !errors.Is(err, ErrInitGone) || !strings.Contains(err.Error(), "init process missing") {
			t.Errorf("%q after Forget: %v", id, err)
		}
	}
}

func TestForgetOfALiveProcessDoesNothing(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sleep", "1000")
	c.Forget("")
	process(t, c, "")
}

func TestExec(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sleep", "1000")
	if err := c.Exec(t.Context(), "one", testProcess("sh", "-c", "echo out; echo err >&2; exit 4")); err != nil {
		t.Fatal(err)
	}
	p := process(t, c, "one")
	if out, errs := readAll(t, p.ReadStdout), readAll(t, p.ReadStderr); out != "out\n" || errs != "err\n" {
		t.Errorf("stdout %q, stderr %q", out, errs)
	}
	if code := waitCode(t, p); code != 4 {
		t.Errorf("code %d", code)
	}
	for _, id := range []string{"one", c.ID()} {
		err := c.Exec(t.Context(), id, testProcess("true"))
		if !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), "exec_id '"+id+"' already exists") {
			t.Errorf("duplicate exec id %q: %v", id, err)
		}
	}
	c.Forget("one")
	if _, err := c.Process("one"); !errors.Is(err, ErrNoProcess) || !strings.Contains(err.Error(), "invalid exec id") {
		t.Errorf("after Forget: %v", err)
	}
}

func TestExecThatCannotRunIsRefusedAndLeavesItsIDFree(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sleep", "1000")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tc := range []struct {
		name    string
		ctx     context.Context
		execID  string
		process *specs.Process
		want    error
		text    string
	}{
		{"missing in PATH", t.Context(), "again", testProcess("nope"), ErrNotFound, "the file nope was not found"},
		{"missing path", t.Context(), "again", testProcess("/bin/nope"), ErrNotFound, "the file /bin/nope was not found"},
		{"no arguments", t.Context(), "again", testProcess(), ErrRefused, ""},
		{"no process", t.Context(), "again", nil, ErrRefused, ""},
		{"relative directory", t.Context(), "again", func() *specs.Process { p := testProcess("true"); p.Cwd = "x"; return p }(), ErrRefused, ""},
		{"unknown limit", t.Context(), "again", func() *specs.Process {
			p := testProcess("true")
			p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NONE"}}
			return p
		}(), ErrRefused, ""},
		{"huge console", t.Context(), "again", func() *specs.Process {
			p := testProcess("true")
			p.ConsoleSize = &specs.Box{Height: 1 << 16, Width: 1}
			return p
		}(), ErrRefused, ""},
		{"bad id", t.Context(), "../x", testProcess("true"), ErrInvalidID, ""},
		{"empty id", t.Context(), "", testProcess("true"), ErrInvalidID, ""},
		{"ended context", ended, "again", testProcess("true"), context.Canceled, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := c.Exec(tc.ctx, tc.execID, tc.process)
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
		})
	}
	if err := c.Exec(t.Context(), "again", testProcess("true")); err != nil {
		t.Error(err)
	}
}

func TestExecNeedsALiveInit(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "true")
	waitCode(t, process(t, c, ""))
	if err := c.Exec(t.Context(), "late", testProcess("true")); !errors.Is(err, ErrInitGone) {
		t.Errorf("exec: %v", err)
	}
	if err := c.Pause(t.Context()); !errors.Is(err, ErrInitGone) {
		t.Errorf("pause: %v", err)
	}
}

func TestExecWithoutCapabilitiesTakesThoseOfTheContainer(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sleep", "1000")
	p := testProcess("grep", "CapEff", "/proc/self/status")
	p.Capabilities = nil
	if err := c.Exec(t.Context(), "caps", p); err != nil {
		t.Fatal(err)
	}
	if out := readAll(t, process(t, c, "caps").ReadStdout); !strings.Contains(out, "00000000000004e1") {
		t.Errorf("capabilities %q", out)
	}

	bare := running(t, func(s *specs.Spec) { s.Process.Capabilities = nil; s.Linux.CgroupsPath += "-bare" }, "sleep", "1000")
	if err := bare.Exec(t.Context(), "caps", p); !errors.Is(err, ErrNoCapabilities) || !strings.Contains(err.Error(), "missing process capabilities") {
		t.Errorf("exec without any: %v", err)
	}
}

func TestExecGetsNoMoreCapabilitiesThanTheContainer(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sleep", "1000")
	for _, raise := range []func(*specs.LinuxCapabilities){
		func(caps *specs.LinuxCapabilities) { caps.Bounding = append(caps.Bounding, "CAP_SYS_ADMIN") },
		func(caps *specs.LinuxCapabilities) { caps.Ambient = []string{"CAP_SYS_MODULE"} },
	} {
		p := testProcess("true")
		p.Capabilities = &specs.LinuxCapabilities{}
		raise(p.Capabilities)
		if err := c.Exec(t.Context(), "more", p); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "bounding set") {
			t.Errorf("exec with %+v: %v", p.Capabilities, err)
		}
	}
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sleep", "1000")
	if err := c.Resume(t.Context()); !errors.Is(err, ErrNotPaused) {
		t.Errorf("resume of a running container: %v", err)
	}
	if err := c.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Pause(t.Context()); !errors.Is(err, ErrPaused) {
		t.Errorf("second pause: %v", err)
	}
	if err := c.Exec(t.Context(), "frozen", testProcess("true")); !errors.Is(err, ErrPaused) {
		t.Errorf("exec while paused: %v", err)
	}
	if err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Exec(t.Context(), "thawed", testProcess("true")); err != nil {
		t.Error(err)
	}
}

func TestAPausedContainerCanBeKilledAndDeleted(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sleep", "1000")
	if err := c.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Signal(t.Context(), c.ID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := waitCode(t, process(t, c, "")); code != 137 {
		t.Errorf("code %d", code)
	}
}

func TestDeleteOfARunningContainerLeavesNothing(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sh", "-c", "sleep 1000 & sleep 1000")
	if err := c.Exec(t.Context(), "more", testProcess("sleep", "1000")); err != nil {
		t.Fatal(err)
	}
	init, more := process(t, c, ""), process(t, c, "more")
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*Process{init, more} {
		if !p.exited() {
			t.Errorf("pid %d was not reaped", p.Pid())
		}
	}
	if !removed(c.stateDir) || !cgroupGone(c.cg) {
		t.Error("state or cgroup is left")
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Errorf("second delete: %v", err)
	}
	if err := c.Exec(t.Context(), "late", testProcess("true")); err == nil {
		t.Error("exec after delete succeeded")
	}
	if _, err := c.Stats(t.Context()); !errors.Is(err, ErrDeleted) {
		t.Errorf("stats after delete: %v", err)
	}
	if err := c.Signal(t.Context(), "", unix.SIGKILL); err != nil {
		t.Errorf("kill after delete: %v", err)
	}
}

func TestAFailedCreateLeavesNothingAndCanBeRepeated(t *testing.T) {
	t.Parallel()
	r := newTestRuntime(t)
	root := busyboxRoot(t)
	ended, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	<-ended.Done()
	id := testID(t)
	for _, tc := range []struct {
		name string
		ctx  context.Context
		edit func(*CreateRequest)
		want string
	}{
		{"missing program", t.Context(), func(q *CreateRequest) { q.Spec.Process.Args[0] = "nope" }, "the file nope was not found"},
		{"missing absolute program", t.Context(), func(q *CreateRequest) { q.Spec.Process.Args[0] = "/nope" }, "the file /nope was not found"},
		{"missing mount source", t.Context(), func(q *CreateRequest) {
			q.Spec.Mounts = append(q.Spec.Mounts, specs.Mount{Destination: "/x", Source: "/no/such/dir", Type: "bind", Options: []string{"bind"}})
		}, "/no/such/dir"},
		{"failing hook", t.Context(), func(q *CreateRequest) {
			q.Spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}}
		}, "hook"},
		{"ended context", ended, func(*CreateRequest) {}, "deadline exceeded"},
		{"short id", t.Context(), func(q *CreateRequest) { q.ID = "x" }, "invalid id"},
		{"id with slash", t.Context(), func(q *CreateRequest) { q.ID = "a/../b" }, "invalid id"},
		{"cgroup path with ..", t.Context(), func(q *CreateRequest) { q.Spec.Linux.CgroupsPath = "/a/../../b" }, "leaves its hierarchy"},
		{"missing root", t.Context(), func(q *CreateRequest) { q.Spec.Root.Path = "/no/such/root" }, "rootfs"},
		{"bad sysctl", t.Context(), func(q *CreateRequest) { q.Spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "nonsense"} }, "ip_forward"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req := CreateRequest{ID: id, Bundle: "/", Spec: testSpec(root, id, "true")}
			tc.edit(&req)
			_, err := r.Create(tc.ctx, req)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if entries, err := os.ReadDir(r.stateDir); err != nil || len(entries) > 0 {
				t.Errorf("state left: %v, %v", entries, err)
			}
			for _, dir := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
				if left, err := filepath.Glob(dir + cgroupParent() + "/" + id); err != nil || len(left) > 0 {
					t.Errorf("cgroup left: %v, %v", left, err)
				}
			}
		})
	}
	c := created(t, r, testSpec(root, id, "true"))
	if _, err := r.Create(t.Context(), CreateRequest{ID: id, Bundle: "/", Spec: testSpec(root, id+"2", "true")}); !errors.Is(err, ErrExists) {
		t.Errorf("second container of the same id: %v", err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestASlowCreateCanBeGivenUpAndBlocksNobody(t *testing.T) {
	t.Parallel()
	r := newTestRuntime(t)
	root := busyboxRoot(t)
	id := testID(t)
	hooked := filepath.Join(t.TempDir(), "hooked")
	if err := unix.Mkfifo(hooked, 0o600); err != nil {
		t.Fatal(err)
	}
	slow := testSpec(root, id+"-slow", "true")
	// The hook tells that it runs and then takes longer than anyone waits. It
	// runs inside the container's cgroup, where the kill finds it.
	slow.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo up >" + hooked + "; exec sleep 1000"}}}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := r.Create(ctx, CreateRequest{ID: id + "-slow", Bundle: "/", Spec: slow})
		done <- err
	}()
	if _, err := os.ReadFile(hooked); err != nil { // blocks until the hook runs
		t.Fatal(err)
	}
	other := created(t, r, testSpec(root, id, "true"))
	if err := other.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitCode(t, process(t, other, ""))
	select {
	case err := <-done:
		t.Fatalf("slow create ended by itself: %v", err)
	default:
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("slow create: %v", err)
	}
	if !removed(filepath.Join(r.stateDir, id+"-slow")) {
		t.Error("state of the slow container is left")
	}
}

func TestStatsAreThoseOfTheCgroup(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; read x")
	p := process(t, c, "")
	readUntil(t, p, "done")
	s, err := c.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.CpuStats.CpuUsage.TotalUsage == 0 {
		t.Error("no CPU time counted")
	}
	if s.PidsStats.Current != 1 {
		t.Errorf("%d processes, want 1", s.PidsStats.Current)
	}
}

// TestEverythingOnCgroupV2 runs the tests of this package again where only the
// unified hierarchy exists.
func TestEverythingOnCgroupV2(t *testing.T) {
	needRoot(t)
	if os.Getenv(cgroupV2Env) != "" {
		t.Skip("runs there already")
	}
	if r := newTestRuntime(t); r.host.cgroupV2 {
		t.Skip("this host has nothing else")
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.parallel=4", "-test.timeout=4m")
	cmd.Env = append(os.Environ(), cgroupV2Env+"=1")
	cmd.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestAnExecThatHangsCanBeGivenUp(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sleep", "1000")
	if c.host.cgroupV2 {
		t.Skip("cgroup v2 clones into the group: a frozen one would stop this test binary")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := c.reserve("hanging"); err != nil {
		t.Fatal(err)
	}
	lp, err := newProcess(testProcess("true"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cg.Freeze(cgroups.Frozen); err != nil { // behind Exec's back
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := c.launch(ctx, launch{execID: "hanging", lp: lp, settled: sync.OnceFunc(c.leave)})
		c.work.Done()
		done <- err
	}()
	for { // until the new process is in the frozen group
		pids, err := c.cg.GetAllPids()
		if err != nil {
			t.Fatal(err)
		}
		if len(pids) > 1 {
			break
		}
	}
	if _, err := c.Stats(limited(t)); err != nil {
		t.Errorf("statistics meanwhile: %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if err := c.Resume(limited(t)); err != nil {
		t.Errorf("resume meanwhile: %v", err)
	}
	// Delete at the end of the test waits until the late process is gone.
}

func TestPauseWaitsForProcessesThatAreBeingMade(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sleep", "1000")
	if err := c.reserve("slow"); err != nil {
		t.Fatal(err)
	}
	defer c.work.Done()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.Pause(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("pause meanwhile: %v", err)
	}
	if state, err := c.cg.GetFreezerState(); err != nil || state == cgroups.Frozen {
		t.Errorf("state %q, %v", state, err)
	}
	done := make(chan error)
	go func() { done <- c.Pause(limited(t)) }()
	for c.reserve("late") == nil { // until Pause has begun
		c.leave()
		c.work.Done()
		c.mu.Lock()
		delete(c.procs, "late")
		c.mu.Unlock()
	}
	c.leave()
	if err := <-done; err != nil {
		t.Errorf("pause: %v", err)
	}
	if err := c.Exec(t.Context(), "later", testProcess("true")); !errors.Is(err, ErrPaused) {
		t.Errorf("exec: %v", err)
	}
}

func TestAContainerThatFrozeItselfTakesNoExec(t *testing.T) {
	t.Parallel()
	c := running(t, nil, "sleep", "1000")
	if err := c.cg.Freeze(cgroups.Frozen); err != nil {
		t.Fatal(err)
	}
	if err := c.Exec(t.Context(), "one", testProcess("true")); !errors.Is(err, ErrPaused) {
		t.Errorf("exec: %v", err)
	}
	if err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Exec(t.Context(), "one", testProcess("true")); err != nil {
		t.Errorf("exec after resume: %v", err)
	}
}
