// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// newRoot is where the root is bound before it is moved over itself.
const newRoot = "/.root"

const (
	nsd  = unix.MS_NOSUID | unix.MS_NODEV
	nsdx = nsd | unix.MS_NOEXEC
)

type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
	// optional file systems may be missing in the kernel.
	optional bool
}

// mounts are the guest's own mounts, in order. Containers get theirs from
// their own OCI specification.
func mounts() []mount {
	return []mount{
		{"proc", "/proc", "proc", nsdx, "", false},
		{"sysfs", "/sys", "sysfs", nsdx, "", false},
		{"dev", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755", false},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666,gid=5", false},
		{"tmpfs", "/dev/shm", "tmpfs", nsd, "mode=1777", false},
		{"tmpfs", "/run", "tmpfs", nsd, "mode=0755", false},
		{"tmpfs", "/tmp", "tmpfs", nsd, "mode=1777", false},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", nsdx | unix.MS_RELATIME, "nsdelegate", false},
		{"securityfs", "/sys/kernel/security", "securityfs", nsdx, "", true},
	}
}

// changeRoot gives the root a parent mount, without which pivot_root, and so
// every container, fails with EINVAL on an initramfs: the root is bound onto a
// directory of itself and moved over /. The bind is not recursive; therefore
// this comes before any other mount. A root of openRoot has a parent, and no
// room for a directory.
func changeRoot(_ context.Context, s *State) error {
	fs := s.Deps.FS
	if done, err := fs.IsErofs("/"); err != nil {
		return fmt.Errorf("look at the root: %w", err)
	} else if done {
		return nil
	}
	if err := fs.Mkdir(newRoot, 0o700); err != nil {
		return fmt.Errorf("make %q: %w", newRoot, err)
	}
	if err := fs.Mount("/", newRoot, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind / on %q: %w", newRoot, err)
	}
	if err := fs.Chdir(newRoot); err != nil {
		return fmt.Errorf("enter %q: %w", newRoot, err)
	}
	if err := moveToRoot(fs); err != nil {
		return err
	}
	if err := fs.Rmdir(newRoot); err != nil {
		return fmt.Errorf("remove %q: %w", newRoot, err)
	}
	return nil
}

// moveToRoot moves the mount of the working directory over / and goes there.
func moveToRoot(fs Files) error {
	if err := fs.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move %q to /: %w", newRoot, err)
	}
	if err := fs.Chroot("."); err != nil {
		return fmt.Errorf("change root to %q: %w", newRoot, err)
	}
	if err := fs.Chdir("/"); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	return nil
}

func mountAll(_ context.Context, s *State) error {
	for _, m := range mounts() {
		if err := mountOne(s.Deps.FS, m); err != nil {
			if !m.optional {
				return err
			}
			s.Log.Warn("optional mount is missing", "target", m.target, "error", err)
		}
	}
	return nil
}

func mountOne(fs Files, m mount) error {
	if err := makeDir(fs, m.target); err != nil {
		return err
	}
	if err := fs.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %q: %w", m.fstype, m.target, err)
	}
	return nil
}

// makeDir makes dir unless it exists.
func makeDir(fs Files, dir string) error {
	if err := fs.Mkdir(dir, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make directory %q: %w", dir, err)
	}
	return nil
}

// linkDevices completes /dev with what devtmpfs does not make.
func linkDevices(_ context.Context, s *State) error {
	for _, l := range [][2]string{
		{"/proc/self/fd", "/dev/fd"},
		{"/proc/self/fd/0", "/dev/stdin"},
		{"/proc/self/fd/1", "/dev/stdout"},
		{"/proc/self/fd/2", "/dev/stderr"},
	} {
		if err := s.Deps.FS.Symlink(l[0], l[1]); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("link %q to %q: %w", l[1], l[0], err)
		}
	}
	return nil
}

// cgroupRoot is where the cgroup hierarchy is mounted.
const cgroupRoot = "/sys/fs/cgroup"

// enableCgroups hands every controller down from the root cgroup and makes the
// leaf of the guest role. PID 1 itself may stay in the root, which is exempt
// from the rule that inner cgroups hold no processes.
func enableCgroups(_ context.Context, s *State) error {
	fs := s.Deps.FS
	b, err := fs.ReadFile(cgroupRoot + "/cgroup.controllers")
	if err != nil {
		return fmt.Errorf("list cgroup controllers: %w", err)
	}
	controllers := strings.Fields(string(b))
	if len(controllers) == 0 {
		return errors.New("the kernel offers no cgroup v2 controller")
	}
	enable := "+" + strings.Join(controllers, " +")
	if err := fs.WriteFile(cgroupRoot+"/cgroup.subtree_control", []byte(enable)); err != nil {
		return fmt.Errorf("enable cgroup controllers %q: %w", enable, err)
	}
	return makeDir(fs, RoleCgroup)
}
