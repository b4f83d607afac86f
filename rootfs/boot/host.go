// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cocoon/internal/mapper"
)

// selfPath is the own binary, which is also the guest role's.
const selfPath = "/proc/self/exe"

// roleOOMScore makes the kernel kill workloads before the guest role. Only a
// container whose specification names no score inherits it.
const roleOOMScore = "-997"

// Host returns the real dependencies.
func Host() Deps {
	stop := make(chan os.Signal, 4)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	return Deps{
		FS:      hostFiles(),
		Kern:    hostKernel(),
		Procs:   Processes{Start: startRole, Wait: wait, Kill: unix.Kill, Exec: unix.Exec},
		Net:     Links{Virtio: virtioLinks, Physical: physicalLinks, DHCP: askDHCP, Up: linkSetUp, Address: linkAddress, Route: linkRoute},
		Disks:   Disks{Partitions: partitions, ReadAt: readAt, Map: mapper.Mapper{}.ReadOnly},
		Console: os.Stderr,
		Pid:     os.Getpid,
		Uptime:  uptime,
		After:   time.After,
		Signals: stop,
	}
}

func hostFiles() Files {
	return Files{
		Mount: unix.Mount, Unmount: unix.Unmount, Chdir: unix.Chdir, Chroot: unix.Chroot,
		Mkdir: unix.Mkdir, Rmdir: unix.Rmdir, Symlink: unix.Symlink, Remove: unix.Unlink, IsErofs: isErofs,
		ReadFile:  os.ReadFile,
		WriteFile: func(name string, data []byte) error { return os.WriteFile(name, data, 0o644) },
	}
}

func hostKernel() Kernel {
	return Kernel{
		OpenLog:     openLog,
		LoadModule:  loadModule,
		SetHostname: func(name string) error { return unix.Sethostname([]byte(name)) },
		Setrlimit:   func(resource int, lim unix.Rlimit) error { return unix.Setrlimit(resource, &lim) },
		Now:         time.Now,
		SetTime:     setTime,
		CtrlAltDel:  func() error { return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) },
		Sync:        unix.Sync,
		PowerOff:    func() error { return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) },
	}
}

func openLog() (io.Writer, error) {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func setTime(t time.Time) error {
	tv := unix.NsecToTimeval(t.UnixNano())
	return unix.Settimeofday(&tv)
}

func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // The clock exists since Linux 2.6.39; only timings would suffer.
	}
	return time.Duration(ts.Nano())
}

func loadModule(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.FinitModule(fd, "", 0), unix.Close(fd))
}

func wait(nohang bool) (int, unix.WaitStatus, error) {
	flags := unix.WALL
	if nohang {
		flags |= unix.WNOHANG
	}
	var ws unix.WaitStatus
	pid, err := unix.Wait4(-1, &ws, flags, nil)
	return pid, ws, err
}

// startRole starts the own binary. It does not use os/exec, whose own wait
// would race with the reaper for the exit status.
func startRole(r Role) (c Child, err error) {
	cgroup, err := os.OpenFile(r.Cgroup, unix.O_DIRECTORY|unix.O_PATH, 0)
	if err != nil {
		return Child{}, fmt.Errorf("open cgroup %q: %w", r.Cgroup, err)
	}
	defer func() { err = errors.Join(err, cgroup.Close()) }()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return Child{}, err
	}
	defer func() { err = errors.Join(err, null.Close()) }()
	read, write, err := os.Pipe()
	if err != nil {
		return Child{}, fmt.Errorf("make a pipe: %w", err)
	}
	pid, err := syscall.ForkExec(selfPath, r.Args, &syscall.ProcAttr{
		Dir: "/", Env: r.Env,
		Files: []uintptr{null.Fd(), write.Fd(), write.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(cgroup.Fd())},
	})
	err = errors.Join(err, write.Close())
	if err != nil {
		return Child{}, errors.Join(err, read.Close())
	}
	score := filepath.Join("/proc", strconv.Itoa(pid), "oom_score_adj")
	if err := os.WriteFile(score, []byte(roleOOMScore), 0); err != nil {
		return Child{}, errors.Join(fmt.Errorf("protect the guest role: %w", err), unix.Kill(pid, unix.SIGKILL), read.Close())
	}
	return Child{Pid: pid, Output: read}, nil
}

// physicalLinks finds the interfaces of devices.
func physicalLinks() ([]string, error) { return linksOf("") }

// virtioLinks finds interfaces by their driver: without udev their names say
// nothing.
func virtioLinks() ([]string, error) { return linksOf("virtio_net") }

// linksOf returns the interfaces of one driver, or of all if it is empty, in
// the order of their bus addresses.
func linksOf(want string) ([]string, error) {
	const dir = "/sys/class/net"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	address := map[string]string{}
	var names []string
	for _, e := range entries {
		driver, err := os.Readlink(filepath.Join(dir, e.Name(), "device", "driver"))
		if err != nil || want != "" && filepath.Base(driver) != want {
			continue // Interfaces without a device, such as lo, have no such link.
		}
		dev, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name(), "device"))
		if err != nil {
			return nil, fmt.Errorf("find the device of interface %q: %w", e.Name(), err)
		}
		address[e.Name()] = dev
		names = append(names, e.Name())
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(address[a], address[b]) })
	return names, nil
}

func linkSetUp(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

func linkAddress(name string, a netip.Prefix) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	ip := &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}
	return netlink.AddrAdd(l, &netlink.Addr{IPNet: ip})
}

func linkRoute(name string, gateway netip.Addr) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: gateway.AsSlice()}
	// Some clouds give a machine a network of its own address alone.
	r.SetFlag(netlink.FLAG_ONLINK)
	return netlink.RouteAdd(r)
}
