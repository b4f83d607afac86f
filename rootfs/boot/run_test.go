// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"cocoon/internal/cmdline"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// healthyBoot is every call of a boot in which the guest role ends well.
const healthyBoot = `open log
mkdir /.root 700
mount / /.root  0x1000 
chdir /.root
mount . /  0x2000 
chroot .
chdir /
rmdir /.root
mkdir /proc 755
mount proc /proc proc 0xe 
mkdir /sys 755
mount sysfs /sys sysfs 0xe 
mkdir /dev 755
mount dev /dev devtmpfs 0x2 mode=0755
mkdir /dev/pts 755
mount devpts /dev/pts devpts 0xa mode=0620,ptmxmode=0666,gid=5
mkdir /dev/shm 755
mount tmpfs /dev/shm tmpfs 0x6 mode=1777
mkdir /run 755
mount tmpfs /run tmpfs 0x6 mode=0755
mkdir /tmp 755
mount tmpfs /tmp tmpfs 0x6 mode=1777
mkdir /sys/fs/cgroup 755
mount cgroup2 /sys/fs/cgroup cgroup2 0x20000e nsdelegate
mkdir /sys/kernel/security 755
mount securityfs /sys/kernel/security securityfs 0xe 
symlink /proc/self/fd /dev/fd
symlink /proc/self/fd/0 /dev/stdin
symlink /proc/self/fd/1 /dev/stdout
symlink /proc/self/fd/2 /dev/stderr
read /proc/cmdline
write /proc/sys/kernel/printk 7
write /proc/sys/kernel/printk_devkmsg on
write /proc/sys/kernel/sysrq 0
write /proc/sys/kernel/dmesg_restrict 1
write /proc/sys/kernel/kptr_restrict 2
write /proc/sys/kernel/kexec_load_disabled 1
write /proc/sys/kernel/unprivileged_bpf_disabled 1
write /proc/sys/fs/protected_symlinks 1
write /proc/sys/fs/protected_hardlinks 1
write /proc/sys/fs/protected_fifos 2
write /proc/sys/fs/protected_regular 2
write /proc/sys/fs/suid_dumpable 0
ctrl-alt-del
rlimit 7 1048576
rlimit 4 0
read /sys/fs/cgroup/cgroup.controllers
write /sys/fs/cgroup/cgroup.subtree_control +cpu +memory +pids
mkdir /sys/fs/cgroup/cocoon 755
read /etc/cocoon/modules
module /lib/modules/6.1/a.ko
module /lib/modules/6.1/b.ko
write /proc/sys/kernel/modules_disabled 1
mkdir /sys/kernel/config 755
mount configfs /sys/kernel/config configfs 0xe 
read /etc/cocoon/epoch
up lo
links
up eth3
address eth3 10.0.2.15/24
route eth3 10.0.2.2
mkdir /run/cocoon 755
write /run/cocoon/resolv.conf nameserver 10.0.2.3
read /etc/hostname
hostname cocoon
mkdir /run/cocoon 755
write /run/cocoon/boot.json
start cocoon guest
kill -1 9
sync
read /proc/self/mounts
unmount /data/in ner
unmount /data
power off`

func TestAHealthyGuestComesUpInOrderAndPowersOff(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.end(t, "hello\n<3>bad\n", exited(0))
	if err := Run(t.Context(), w.deps()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(healthyBoot, "\n"), w.calls); diff != "" {
		t.Errorf("calls differ (-want +got):\n%s", diff)
	}
	for _, want := range []string{"<14>guest: hello\n", "<11>guest: bad\n", "init: boot step=modules n=8/15 ms=", "init: guest role finished\n"} {
		if !strings.Contains(w.logged(), want) {
			t.Errorf("log lacks %q:\n%s", want, w.logged())
		}
	}
	if strings.Contains(w.logged(), "fatal") || strings.Contains(w.logged(), "last words") {
		t.Errorf("a healthy boot reports a failure:\n%s", w.logged())
	}
	if !slices.Equal(w.role.role.Env, RoleEnv()) || w.role.role.Cgroup != RoleCgroup {
		t.Errorf("role is started as %+v", w.role.role)
	}
	tl, err := ReadTimeline(strings.NewReader(w.files[TimelinePath]))
	if err != nil || len(tl.Steps) != len(Steps())-1 || tl.Total() <= 0 {
		t.Errorf("timeline is %+v, error %v", tl, err)
	}
}

// optionalCalls may fail without ending the boot.
var optionalCalls = map[string]bool{
	"mount securityfs /sys/kernel/security securityfs 0xe ": true,
	"module /lib/modules/6.1/b.ko":                          true,
	"mkdir /sys/kernel/security 755":                        true,
	"mkdir /sys/kernel/config 755":                          true,
	"mount configfs /sys/kernel/config configfs 0xe ":       true,
}

func TestAnyFailingCallPowersOffWithItsReasonInTheLog(t *testing.T) {
	t.Parallel()
	calls, _, _ := strings.Cut(healthyBoot, "\nkill -1 9")
	for call := range strings.SplitSeq(calls, "\n") {
		if optionalCalls[call] {
			continue
		}
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			boom := errors.New("boom")
			w.fail[call] = boom
			err := Run(t.Context(), w.deps())
			if !errors.Is(err, boom) {
				t.Fatalf("got %v, want the cause", err)
			}
			if last := w.calls[len(w.calls)-1]; last != "power off" {
				t.Errorf("last call is %q, not the power-off", last)
			}
			if !strings.Contains(w.logged(), "init: fatal: ") || !strings.Contains(w.logged(), "boom") {
				t.Errorf("log does not give the reason:\n%s", w.logged())
			}
			if call != "start cocoon guest" && slices.Contains(w.calls, "start cocoon guest") {
				t.Error("the guest role was started nevertheless")
			}
		})
	}
}

// A kernel without kexec has no switch for it. Every other one is needed.
func TestOnlyTheSwitchForKexecMayBeMissing(t *testing.T) {
	t.Parallel()
	for call := range strings.SplitSeq(healthyBoot, "\n") {
		if !strings.HasPrefix(call, "write /proc/sys/kernel/") && !strings.HasPrefix(call, "write /proc/sys/fs/") {
			continue
		}
		w := newWorld()
		w.fail[call] = unix.ENOENT
		needed := !strings.Contains(call, "kexec")
		if !needed {
			w.end(t, "", exited(0))
		}
		if err := Run(t.Context(), w.deps()); needed != errors.Is(err, unix.ENOENT) || !needed && err != nil {
			t.Errorf("%s: %v", call, err)
		}
	}
}

func TestOptionalPartsMayBeMissing(t *testing.T) {
	t.Parallel()
	w := newWorld()
	for c := range optionalCalls {
		w.fail[c] = unix.ENODEV
	}
	w.end(t, "", exited(0))
	if err := Run(t.Context(), w.deps()); err != nil {
		t.Fatal(err)
	}
}

func TestWhatExistsAlreadyIsNoFailure(t *testing.T) {
	t.Parallel()
	w := newWorld()
	for call := range strings.SplitSeq(healthyBoot, "\n") {
		if strings.HasPrefix(call, "mkdir /") && !strings.HasPrefix(call, "mkdir /.root") ||
			strings.HasPrefix(call, "symlink") || strings.HasPrefix(call, "module") {
			w.fail[call] = unix.EEXIST
		}
	}
	w.end(t, "", exited(0))
	if err := Run(t.Context(), w.deps()); err != nil {
		t.Fatal(err)
	}
}

func TestAPanicInAStepPowersOffWithItsStackInTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.explode = "up lo"
	if err := Run(t.Context(), w.deps()); err == nil || !strings.Contains(err.Error(), `boot step "loopback"`) {
		t.Fatalf("got %v, want an error of the step", err)
	}
	if w.calls[len(w.calls)-1] != "power off" {
		t.Errorf("no power-off after a panic: %q", w.calls)
	}
	if !strings.Contains(w.logged(), "boom in up lo") || !strings.Contains(w.logged(), "runSteps") {
		t.Errorf("log lacks the panic or its stack:\n%s", w.logged())
	}
}

func TestAProcessThatIsNotPID1ChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld()
	d := w.deps()
	d.Pid = func() int { return 2 }
	if err := Run(t.Context(), d); !errors.Is(err, ErrNotInit) {
		t.Fatalf("got %v, want ErrNotInit", err)
	}
	if len(w.calls) != 0 {
		t.Errorf("calls were made: %q", w.calls)
	}
}

func TestWithoutAKernelLogTheConsoleGetsTheReason(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.fail["open log"] = unix.ENODEV
	if err := Run(t.Context(), w.deps()); !errors.Is(err, unix.ENODEV) {
		t.Fatalf("got %v", err)
	}
	if want := []string{"open log", "power off"}; !slices.Equal(w.calls, want) {
		t.Errorf("calls are %q, want %q", w.calls, want)
	}
	if !strings.Contains(w.logged(), "open the kernel log") {
		t.Errorf("console says %q", w.logged())
	}
}

func TestACancelledBootStopsBeforeTheNextStep(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	w := newWorld()
	w.onCall["rlimit 4 0"] = cancel
	if err := Run(ctx, w.deps()); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want Canceled", err)
	}
	if slices.Contains(w.calls, "read /sys/fs/cgroup/cgroup.controllers") {
		t.Error("the step after the cancellation ran")
	}
}

func TestBadInputOfTheImageOrTheCommandLineEndsTheBoot(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ file, content, want string }{
		"command line too long": {"/proc/cmdline", strings.Repeat("x", cmdline.Max+1), "larger than allowed"},
		"bad address":           {"/proc/cmdline", "ip=1.2.3:::", "malformed network parameter"},
		"console level word":    {"/proc/cmdline", "cocoon.console=loud", "not a level"},
		"console level 0":       {"/proc/cmdline", "cocoon.console=0", "not a level"},
		"console level 9":       {"/proc/cmdline", "cocoon.console=9", "not a level"},
		"console level empty":   {"/proc/cmdline", "cocoon.console=", "not a level"},
		"no controllers":        {"/sys/fs/cgroup/cgroup.controllers", "\n", "no cgroup v2 controller"},
		"module outside":        {ModulesPath, "/tmp/evil.ko\n", "malformed module list"},
		"build time word":       {EpochPath, "yesterday\n", "not a number of seconds"},
		"build time negative":   {EpochPath, "-1\n", "not a number of seconds"},
		"host name with slash":  {"/etc/hostname", "a/b\n", "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			w.files[tc.file] = tc.content
			err := Run(t.Context(), w.deps())
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if w.calls[len(w.calls)-1] != "power off" || !strings.Contains(w.logged(), tc.want) {
				t.Errorf("no orderly end; log:\n%s", w.logged())
			}
		})
	}
}

func TestTheClockIsNeverBeforeTheBuildOfTheImage(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		epoch string
		want  bool
	}{"before": {"2001\n", true}, "same": {"2000\n", false}, "after": {"1999", false}, "unset": {"0\n", false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			w.files[EpochPath] = tc.epoch
			w.end(t, "", exited(0))
			if err := Run(t.Context(), w.deps()); err != nil {
				t.Fatal(err)
			}
			if got := slices.Contains(w.calls, "clock 2001"); got != tc.want {
				t.Errorf("clock was set: %t, want %t", got, tc.want)
			}
		})
	}
}

func TestTheCommandLineDecidesAboutTheNetwork(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		cmdline       string
		present, gone []string
	}{
		"no parameter": {"quiet", []string{"up lo", "hostname cocoon"}, []string{"links", "write /run/cocoon/resolv.conf"}},
		"off":          {"ip=off", []string{"up lo"}, []string{"links"}},
		"a server, first interface": {
			"ip=dhcp",
			[]string{"up ens5", "dhcp ens5", "address ens5 10.1.2.3/32", "route ens5 10.1.0.1", "hostname cocoon", "write /run/cocoon/resolv.conf nameserver 10.1.0.2"},
			[]string{"links"},
		},
		"a server, named device": {
			"ip=::::vm2:eth7:dhcp", []string{"up eth7", "dhcp eth7", "hostname vm2"}, []string{"links", "all links"},
		},
		"named device": {
			"ip=10.0.0.2:::255.255.0.0:vm1:ens5",
			[]string{"up ens5", "address ens5 10.0.0.2/16", "hostname vm1", "write /run/cocoon/resolv.conf "},
			[]string{"links", "route ens5"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			w.files["/proc/cmdline"] = tc.cmdline
			w.end(t, "", exited(0))
			if err := Run(t.Context(), w.deps()); err != nil {
				t.Fatal(err)
			}
			for _, c := range tc.present {
				if !slices.Contains(w.calls, c) {
					t.Errorf("call %q is missing", c)
				}
			}
			for _, c := range tc.gone {
				if slices.ContainsFunc(w.calls, func(got string) bool { return strings.HasPrefix(got, c) }) {
					t.Errorf("call %q was made", c)
				}
			}
		})
	}
}

func TestAMissingInterfaceIsAnError(t *testing.T) {
	t.Parallel()
	w := newWorld()
	d := w.deps()
	d.Net.Virtio = func() ([]string, error) { return nil, nil }
	if err := Run(t.Context(), d); !errors.Is(err, ErrNoInterface) {
		t.Errorf("got %v, want ErrNoInterface", err)
	}
}

func TestAMissingHostnameFileMeansLocalhost(t *testing.T) {
	t.Parallel()
	w := newWorld()
	delete(w.files, "/etc/hostname")
	w.end(t, "", exited(0))
	if err := Run(t.Context(), w.deps()); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(w.calls, "hostname localhost") {
		t.Errorf("calls are %q", w.calls)
	}
}

func TestHostRefusesOutsideOfPID1(t *testing.T) {
	t.Parallel()
	if os.Getpid() == 1 {
		t.Skip("the test runs as PID 1")
	}
	d := Host()
	if err := Run(t.Context(), d); !errors.Is(err, ErrNotInit) {
		t.Errorf("got %v, want ErrNotInit", err)
	}
	if d.Uptime() <= 0 {
		t.Errorf("uptime is %s", d.Uptime())
	}
}
