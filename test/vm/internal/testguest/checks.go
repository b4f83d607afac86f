// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"cocoon/rootfs/boot"
)

type check struct {
	name string
	run  func() error
}

// errUnexpected is returned where nothing failed but the result is wrong.
var errUnexpected = errors.New("not as expected")

func checks(peer string) []check {
	return []check{
		{"mounts", checkMounts},
		{"environment", checkEnvironment},
		{"cgroup", checkCgroup},
		{"controllers", checkControllers},
		{"modules", checkModules},
		{"module lock", checkLock},
		{"kernel settings", checkSettings},
		{"device links", checkLinks},
		{"pivot_root", checkPivot},
		{"overlay", checkOverlay},
		{"orphans are reaped", checkOrphans},
		{"network", func() error { return checkNetwork(peer) }},
		{"vsock loopback", checkVsock},
		{"log stream", checkLogStream},
		{"timeline", checkTimeline},
	}
}

func checkMounts() error {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	got := map[string][]string{}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 3 {
			got[f[1]] = append(strings.Split(f[3], ","), "type="+f[2])
		}
	}
	for target, want := range map[string]string{
		"/proc": "type=proc nosuid nodev noexec", "/sys": "type=sysfs nosuid nodev noexec",
		"/dev": "type=devtmpfs nosuid", "/dev/pts": "type=devpts nosuid noexec", "/dev/shm": "type=tmpfs nosuid nodev",
		"/run": "type=tmpfs nosuid nodev", "/tmp": "type=tmpfs nosuid nodev",
		"/sys/fs/cgroup": "type=cgroup2 nosuid nodev noexec nsdelegate", "/sys/kernel/security": "type=securityfs",
	} {
		for _, w := range strings.Fields(want) {
			if !slices.Contains(got[target], w) {
				return fmt.Errorf("%s has %v, without %s", target, got[target], w)
			}
		}
	}
	return nil
}

func checkEnvironment() error {
	if got := os.Environ(); !slices.Equal(got, boot.RoleEnv()) {
		return fmt.Errorf("environment is %q", got)
	}
	wd, err := os.Getwd()
	if err != nil || wd != "/" {
		return fmt.Errorf("working directory %q: %w", wd, errors.Join(errUnexpected, err))
	}
	if name, err := os.Hostname(); err != nil || name != "testguest" {
		return fmt.Errorf("host name %q: %w", name, errors.Join(errUnexpected, err))
	}
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &lim); err != nil || lim.Max != 0 {
		return fmt.Errorf("core limit %v: %w", lim, errors.Join(errUnexpected, err))
	}
	return expectFile("/proc/self/oom_score_adj", "-997")
}

func checkCgroup() error { return expectFile("/proc/self/cgroup", "0::/cocoon") }

func checkControllers() error {
	b, err := os.ReadFile("/sys/fs/cgroup/cgroup.subtree_control")
	if err != nil {
		return err
	}
	for _, c := range []string{"cpu", "cpuset", "io", "memory", "pids"} {
		if !slices.Contains(strings.Fields(string(b)), c) {
			return fmt.Errorf("controller %q is not in %q", c, b)
		}
	}
	return nil
}

func checkModules() error {
	b, err := os.ReadFile("/proc/modules")
	if err != nil {
		return err
	}
	for _, m := range []string{"overlay", "vsock_loopback", "virtio_net", "virtio_blk", "virtio_console", "veth", "vxlan"} {
		if !strings.Contains("\n"+string(b), "\n"+m+" ") {
			return fmt.Errorf("module %q is not loaded", m)
		}
	}
	return nil
}

func checkLock() error {
	if err := expectFile("/proc/sys/kernel/modules_disabled", "1"); err != nil {
		return err
	}
	if err := unix.DeleteModule("overlay", 0); !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("a module could be removed or the kernel says: %w", errors.Join(errUnexpected, err))
	}
	return nil
}

func checkSettings() error {
	return errors.Join(
		expectFile("/proc/sys/kernel/sysrq", "0"),
		expectFile("/proc/sys/kernel/dmesg_restrict", "1"),
		expectFile("/proc/sys/kernel/printk_devkmsg", "on"))
}

func expectFile(name, want string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(string(b)); got != want {
		return fmt.Errorf("%s is %q, not %q", name, got, want)
	}
	return nil
}

func checkLinks() error {
	for _, l := range []string{"/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr"} {
		if _, err := os.Readlink(l); err != nil {
			return err
		}
	}
	return expectFile("/etc/resolv.conf", "nameserver 10.0.2.3")
}

func checkPivot() error {
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", "pivot")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// pivot changes the root as a container runtime does.
func pivot() error {
	const root = "/tmp/root"
	for _, step := range []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return os.Mkdir(root, 0o755) },
		func() error { return unix.Mount("tmpfs", root, "tmpfs", 0, "") },
		func() error { return unix.Chdir(root) },
		func() error { return unix.PivotRoot(".", ".") },
		func() error { return unix.Unmount(".", unix.MNT_DETACH) },
		func() error { return unix.Chdir("/") },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	left, err := os.ReadDir("/")
	if err != nil || len(left) != 0 {
		return fmt.Errorf("the old root is still there: %v %w", left, err)
	}
	return nil
}

func checkOverlay() error {
	const base = "/run/overlay"
	for _, d := range []string{base, base + "/lower", base + "/upper", base + "/work", base + "/merged"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(base+"/lower/file", []byte("lower"), 0o600); err != nil {
		return err
	}
	opts := "lowerdir=" + base + "/lower,upperdir=" + base + "/upper,workdir=" + base + "/work"
	if err := unix.Mount("overlay", base+"/merged", "overlay", 0, opts); err != nil {
		return err
	}
	return errors.Join(expectFile(base+"/merged/file", "lower"), unix.Unmount(base+"/merged", 0))
}

// orphan leaves a process behind whose parent becomes PID 1.
func orphan() int {
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"testguest", "sleeper"}, &syscall.ProcAttr{})
	if err != nil {
		return report("start an orphan", err)
	}
	fmt.Print(pid)
	return 0
}

func checkOrphans() error {
	out, err := exec.CommandContext(context.Background(), "/proc/self/exe", "orphan").Output()
	if err != nil {
		return err
	}
	dir := "/proc/" + string(out)
	if len(out) == 0 {
		return errors.New("no orphan was made")
	}
	for range 200 {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	b, err := os.ReadFile(dir + "/stat")
	return fmt.Errorf("orphan is still there: %q: %w", b, errors.Join(errUnexpected, err))
}

func checkNetwork(peer string) error {
	for _, name := range []string{"lo", "eth0"} {
		l, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		if l.Flags&net.FlagUp == 0 {
			return fmt.Errorf("interface %q is down", name)
		}
	}
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.Background(), "tcp", peer)
	if err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	b, err := io.ReadAll(c)
	if err := errors.Join(err, c.Close()); err != nil {
		return err
	}
	if string(b) != "hello from the host" {
		return fmt.Errorf("the host said %q", b)
	}
	return nil
}

func checkVsock() error {
	l, err := vsock.Listen(1024, nil)
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = c.Write([]byte("vsock"))
			err = errors.Join(err, c.Close())
		}
		sent <- err
	}()
	c, err := vsock.Dial(unix.VMADDR_CID_LOCAL, 1024, nil)
	if err != nil {
		return errors.Join(err, l.Close(), <-sent)
	}
	b, err := io.ReadAll(c)
	if err == nil && string(b) != "vsock" {
		err = fmt.Errorf("received %q", b)
	}
	return errors.Join(err, <-sent, c.Close(), l.Close())
}

func checkTimeline() error {
	f, err := os.Open(boot.TimelinePath)
	if err != nil {
		return err
	}
	t, err := boot.ReadTimeline(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	var names []string
	for _, s := range t.Steps {
		names = append(names, s.Name)
	}
	if len(names) < 10 || names[0] != "root" || t.Kernel <= 0 || t.Total() <= 0 {
		return fmt.Errorf("timeline is %+v", t)
	}
	return nil
}
