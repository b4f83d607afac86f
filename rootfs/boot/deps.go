// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"io"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/internal/mapper"
)

// Deps is everything that PID 1 does to the world. Host fills it with the real
// thing; every field has to be set.
type Deps struct {
	FS    Files
	Kern  Kernel
	Procs Processes
	Net   Links
	Disks Disks
	// Console is told why the kernel log could not be opened.
	Console io.Writer
	// Pid returns the own process id.
	Pid func() int
	// Uptime returns the time since power-on.
	Uptime func() time.Duration
	// After returns a channel that receives once d has passed.
	After func(d time.Duration) <-chan time.Time
	// Signals delivers the requests to stop: SIGTERM, and SIGINT, which is what
	// the kernel sends for ctrl-alt-del.
	Signals <-chan os.Signal
}

// Files is what PID 1 does to mounts and files.
type Files struct {
	Mount   func(source, target, fstype string, flags uintptr, data string) error
	Unmount func(target string, flags int) error
	Chdir   func(dir string) error
	Chroot  func(dir string) error
	Mkdir   func(dir string, mode uint32) error
	Rmdir   func(dir string) error
	Remove  func(file string) error
	// IsErofs tells whether that is the file system at path.
	IsErofs   func(path string) (bool, error)
	Symlink   func(target, link string) error
	ReadFile  func(name string) ([]byte, error)
	WriteFile func(name string, data []byte) error
}

// Kernel is what PID 1 asks of the kernel.
type Kernel struct {
	// OpenLog opens the kernel log for writing.
	OpenLog     func() (io.Writer, error)
	LoadModule  func(path string) error
	SetHostname func(name string) error
	Setrlimit   func(resource int, lim unix.Rlimit) error
	Now         func() time.Time
	SetTime     func(time.Time) error
	// CtrlAltDel makes the kernel send SIGINT to PID 1 instead of resetting.
	CtrlAltDel func() error
	Sync       func()
	PowerOff   func() error
}

// Processes is what PID 1 does to other processes.
type Processes struct {
	// Start starts the guest role.
	Start func(Role) (Child, error)
	// Exec makes the process another program.
	Exec func(path string, args, env []string) error
	// Wait reaps any one child. It blocks unless nohang is set, and returns pid
	// 0 if nohang is set and no child has ended. The error is ECHILD when there
	// is no child.
	Wait func(nohang bool) (pid int, status unix.WaitStatus, err error)
	// Kill signals pid; -1 means every process but PID 1.
	Kill func(pid int, sig unix.Signal) error
}

// Disks is what PID 1 does to find a root on a disk.
type Disks struct {
	// Partitions lists those of all disks that there are now.
	Partitions func() ([]Partition, error)
	// ReadAt fills b from a device.
	ReadAt func(device string, b []byte, offset int64) error
	// Map makes a read-only mapped device and returns its node.
	Map func(ctx context.Context, name string, t mapper.Target) (string, error)
}

// Links is what PID 1 does to network interfaces.
type Links struct {
	// Virtio returns the names of the interfaces that the virtio driver serves,
	// in the order of their bus addresses.
	Virtio func() ([]string, error)
	// Physical returns the interfaces of all devices in the same order: clouds
	// have drivers of their own.
	Physical func() ([]string, error)
	Up       func(link string) error
	// Address gives link an address.
	Address func(link string, a netip.Prefix) error
	// DHCP asks a server on link for an address.
	DHCP func(ctx context.Context, link string) (Lease, error)
	// Route sets the default route. The gateway may lie outside of every network
	// of the link.
	Route func(link string, gateway netip.Addr) error
}

// Role is how to start the guest role.
type Role struct {
	Args []string
	Env  []string
	// Cgroup is the directory of the cgroup in which the process starts.
	Cgroup string
}

// Child is a started process.
type Child struct {
	Pid int
	// Output yields what the process writes to standard output and error.
	Output io.ReadCloser
}
