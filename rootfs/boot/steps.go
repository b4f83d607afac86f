// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/internal/cmdline"
)

// Parameters of the kernel command line that PID 1 reads. Every other word is
// for the kernel or the guest role.
const (
	// ParamConsole sets the console log level, 1 to 8, once the kernel is up.
	// It decides how much of the guest's log the host can read.
	ParamConsole = "cocoon.console"
	// ParamIP is the kernel's own parameter for static addresses.
	ParamIP = "ip"
)

// EpochPath holds the image's build time as decimal Unix seconds. The clock,
// which the host sets, is never let before it.
const EpochPath = "/etc/cocoon/epoch"

// ResolvPath is the resolver configuration of the VM; /etc/resolv.conf of the
// image leads to it.
const ResolvPath = "/run/cocoon/resolv.conf"

// Steps is the boot of the guest, in order, from the first instruction of PID 1
// to the point where the guest role can start.
func Steps() []Step {
	return []Step{
		{Name: "root", Run: changeRoot},
		{Name: "mounts", Run: mountAll},
		{Name: "devices", Run: linkDevices},
		{Name: "command line", Run: readCmdline},
		{Name: "kernel settings", Run: setSysctls},
		{Name: "limits", Run: setLimits},
		{Name: "cgroups", Run: enableCgroups},
		{Name: "modules", Run: loadModules},
		{Name: "module lock", Run: lockModules},
		{Name: "configfs", Run: mountConfigfs},
		{Name: "clock", Run: checkClock},
		{Name: "loopback", Run: func(_ context.Context, s *State) error { return linkUp(s, "lo") }},
		{Name: "network", When: func(s *State) bool { return s.network != nil }, Run: configureNetwork},
		{Name: "hostname", Run: setHostname},
		{Name: "timeline", Run: writeTimeline},
	}
}

func readCmdline(_ context.Context, s *State) error {
	b, err := s.Deps.FS.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("read the command line: %w", err)
	}
	if s.Cmdline, err = cmdline.Parse(string(b)); err != nil {
		return err
	}
	if v, ok := s.Cmdline.Value(ParamIP); ok {
		if s.network, err = ParseIP(v); err != nil {
			return fmt.Errorf("kernel parameter %q: %w", ParamIP, err)
		}
	}
	v, ok := s.Cmdline.Value(ParamConsole)
	if !ok {
		return nil
	}
	level, err := strconv.Atoi(v)
	if err != nil || level < 1 || level > 8 {
		return fmt.Errorf("kernel parameter %s=%q is not a level from 1 to 8", ParamConsole, v)
	}
	return s.writeSysctl("kernel/printk", v)
}

const kexecSwitch = "kernel/kexec_load_disabled"

// setSysctls closes what an unprivileged workload, or the host through the
// console, has no business with. A kernel that lacks one of them is not the
// kernel of the image's profile; only the switch for kexec is missing where there
// is no kexec, as in Debian's kernel for s390x.
func setSysctls(_ context.Context, s *State) error {
	for _, v := range [][2]string{
		{"kernel/printk_devkmsg", "on"}, // the kernel would drop most of our log
		{"kernel/sysrq", "0"},           // keys typed by the host
		{"kernel/dmesg_restrict", "1"},  // the ring holds the guest's log
		{"kernel/kptr_restrict", "2"},
		{kexecSwitch, "1"},
		{"kernel/unprivileged_bpf_disabled", "1"},
		{"fs/protected_symlinks", "1"},
		{"fs/protected_hardlinks", "1"},
		{"fs/protected_fifos", "2"},
		{"fs/protected_regular", "2"},
		{"fs/suid_dumpable", "0"},
	} {
		err := s.writeSysctl(v[0], v[1])
		if v[0] == kexecSwitch && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
	}
	return s.Deps.Kern.CtrlAltDel()
}

func (s *State) writeSysctl(name, value string) error {
	if err := s.Deps.FS.WriteFile("/proc/sys/"+name, []byte(value+"\n")); err != nil {
		return fmt.Errorf("set %q to %q: %w", name, value, err)
	}
	return nil
}

// setLimits are inherited by the guest role: many containers mean many
// descriptors, and a core dump would put secrets into a file.
func setLimits(_ context.Context, s *State) error {
	const files = 1 << 20
	if err := s.Deps.Kern.Setrlimit(unix.RLIMIT_NOFILE, unix.Rlimit{Cur: files, Max: files}); err != nil {
		return fmt.Errorf("limit open files: %w", err)
	}
	if err := s.Deps.Kern.Setrlimit(unix.RLIMIT_CORE, unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}

func loadModules(ctx context.Context, s *State) error {
	b, err := s.Deps.FS.ReadFile(ModulesPath)
	if err != nil {
		return fmt.Errorf("read the module list: %w", err)
	}
	mods, err := ParseModules(string(b))
	if err != nil {
		return fmt.Errorf("parse %q: %w", ModulesPath, err)
	}
	for _, m := range mods {
		if err := ctx.Err(); err != nil {
			return err
		}
		s.loaded = append(s.loaded, m.Path)
		err := s.Deps.Kern.LoadModule(m.Path)
		switch {
		case err == nil || errors.Is(err, unix.EEXIST):
		case m.Optional:
			s.Log.Warn("optional module did not load", "module", m.Path, "error", err)
		default:
			return fmt.Errorf("load module %q: %w", m.Path, err)
		}
	}
	return nil
}

// lockModules makes the kernel refuse every further module until power-off.
func lockModules(_ context.Context, s *State) error {
	return s.writeSysctl("kernel/modules_disabled", "1")
}

// mountConfigfs serves TSM reports. Some kernels have configfs as a module, so
// that it can only be mounted after those; a guest without it has no TSM.
func mountConfigfs(_ context.Context, s *State) error {
	m := mount{"configfs", "/sys/kernel/config", "configfs", nsdx, "", true}
	if err := mountOne(s.Deps.FS, m); err != nil {
		s.Log.Warn("configfs is missing", "error", err)
	}
	return nil
}

// checkClock moves the clock to the build time of the image if it is before:
// the host sets the clock, and an early one makes expired certificates valid.
func checkClock(_ context.Context, s *State) error {
	b, err := s.Deps.FS.ReadFile(EpochPath)
	if err != nil {
		return fmt.Errorf("read the image's build time: %w", err)
	}
	sec, err := strconv.ParseInt(strings.TrimSuffix(string(b), "\n"), 10, 64)
	if err != nil || sec < 0 {
		return fmt.Errorf("build time %q of the image is not a number of seconds", b)
	}
	floor, now := time.Unix(sec, 0), s.Deps.Kern.Now()
	if !now.Before(floor) {
		return nil
	}
	s.Log.Warn("clock is before the build of the image", "clock", now.UTC(), "build", floor.UTC())
	if err := s.Deps.Kern.SetTime(floor); err != nil {
		return fmt.Errorf("set the clock to %s: %w", floor.UTC(), err)
	}
	return nil
}

func setHostname(_ context.Context, s *State) error {
	name := "localhost"
	if b, err := s.Deps.FS.ReadFile("/etc/hostname"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 0 {
			name = f[0]
		}
	} else if !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("read the host name: %w", err)
	}
	if s.network != nil && s.network.Hostname != "" {
		name = s.network.Hostname
	}
	if !validHostname(name) {
		return fmt.Errorf("host name %q is malformed", name)
	}
	if err := s.Deps.Kern.SetHostname(name); err != nil {
		return fmt.Errorf("set host name %q: %w", name, err)
	}
	return nil
}

// writeTimeline leaves the timings for the guest role to report.
func writeTimeline(_ context.Context, s *State) error {
	b, err := json.Marshal(s.Timeline)
	if err != nil {
		return fmt.Errorf("encode the timeline: %w", err)
	}
	if err := makeDir(s.Deps.FS, runDir); err != nil {
		return err
	}
	return s.Deps.FS.WriteFile(TimelinePath, b)
}
