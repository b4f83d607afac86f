// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/internal/mapper"
)

// world is a machine that records what PID 1 does to it. It may be used by
// several goroutines.
type world struct {
	mu    sync.Mutex
	calls []string
	log   bytes.Buffer

	files      map[string]string
	fail       map[string]error  // call -> error
	explode    string            // call that panics
	onCall     map[string]func() // call -> effect
	erofs      bool              // the root is on a disk
	partitions []Partition
	now        time.Time
	uptime     time.Duration
	signals    chan os.Signal
	timers     map[time.Duration]chan time.Time

	role     *fakeRole
	children chan wait4 // what Wait returns, in order
}

type wait4 struct {
	pid    int
	status unix.WaitStatus
	err    error
}

type fakeRole struct {
	out  *io.PipeReader
	in   *io.PipeWriter
	role Role
}

const rolePid = 42

// Wait statuses as wait(2) encodes them.
func exited(code int) unix.WaitStatus        { return unix.WaitStatus(code << 8) }
func signaled(s unix.Signal) unix.WaitStatus { return unix.WaitStatus(s) }

func newWorld() *world {
	r, w := io.Pipe()
	return &world{
		files: map[string]string{
			"/proc/cmdline":                     "quiet ip=10.0.2.15::10.0.2.2:255.255.255.0:::off:10.0.2.3 cocoon.console=7\n",
			"/sys/fs/cgroup/cgroup.controllers": "cpu memory pids\n",
			ModulesPath:                         "/lib/modules/6.1/a.ko\n?/lib/modules/6.1/b.ko\n",
			EpochPath:                           "1000\n",
			"/etc/hostname":                     "cocoon\n",
			"/proc/self/mounts":                 "proc /proc proc rw 0 0\n/dev/vda /data ext4 rw 0 0\n/dev/vdb /data/in\\040ner ext4 rw 0 0\n",
		},
		fail: map[string]error{}, onCall: map[string]func(){},
		now:      time.Unix(2000, 0),
		signals:  make(chan os.Signal, 1),
		timers:   map[time.Duration]chan time.Time{},
		role:     &fakeRole{out: r, in: w},
		children: make(chan wait4, 16),
	}
}

// do records a call and returns the error that is set for it.
func (w *world) do(format string, args ...any) error {
	call := fmt.Sprintf(format, args...)
	w.mu.Lock()
	w.calls = append(w.calls, call)
	w.uptime += time.Millisecond
	err, effect, boom := w.fail[call], w.onCall[call], w.explode == call
	w.mu.Unlock()
	if boom {
		panic("boom in " + call)
	}
	if effect != nil {
		effect()
	}
	return err
}

func (w *world) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *world) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

// timer returns the channel that After gives for d.
func (w *world) timer(d time.Duration) chan time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timers[d] == nil {
		w.timers[d] = make(chan time.Time, 1)
	}
	return w.timers[d]
}

// end makes the guest role end with status after it has written text.
func (w *world) end(t *testing.T, text string, status unix.WaitStatus) {
	t.Helper()
	go func() {
		_, err := io.WriteString(w.role.in, text)
		if err := errors.Join(err, w.role.in.Close()); err != nil {
			t.Errorf("write the role's output: %v", err)
		}
		w.children <- wait4{pid: 7, status: exited(0)} // an orphan
		w.children <- wait4{err: unix.EINTR}
		w.children <- wait4{pid: rolePid, status: status}
		w.children <- wait4{err: unix.ECHILD}
	}()
}

func (w *world) deps() Deps {
	return Deps{
		FS: w.fs(), Kern: w.kernel(), Procs: w.processes(),
		Net: Links{
			Virtio:   func() ([]string, error) { return []string{"eth3", "eth0"}, w.do("links") },
			Physical: func() ([]string, error) { return []string{"ens5"}, w.do("all links") },
			DHCP: func(_ context.Context, l string) (Lease, error) {
				return Lease{Address: netip.MustParsePrefix("10.1.2.3/32"), Gateway: netip.MustParseAddr("10.1.0.1"), DNS: []netip.Addr{netip.MustParseAddr("10.1.0.2")}}, w.do("dhcp %s", l)
			},
			Up:      func(l string) error { return w.do("up %s", l) },
			Address: func(l string, a netip.Prefix) error { return w.do("address %s %s", l, a) },
			Route:   func(l string, g netip.Addr) error { return w.do("route %s %s", l, g) },
		},
		Disks: Disks{
			Partitions: func() ([]Partition, error) { return w.partitions, w.do("partitions") },
			ReadAt: func(device string, b []byte, off int64) error {
				content, ok := w.files[device]
				if !ok {
					return unix.EIO
				}
				_, err := strings.NewReader(content).ReadAt(b, off)
				return errors.Join(err, w.do("read %s %d", device, off))
			},
			Map: func(_ context.Context, name string, t mapper.Target) (string, error) {
				return "/dev/dm-0", w.do("map %s %s %d %s", name, t.Type, t.Sectors, t.Params)
			},
		},
		Console: w,
		Pid:     func() int { return 1 },
		Uptime: func() time.Duration {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.uptime
		},
		After:   func(d time.Duration) <-chan time.Time { return w.timer(d) },
		Signals: w.signals,
	}
}

func (w *world) fs() Files {
	return Files{
		Mount: func(s, t, f string, flags uintptr, data string) error {
			return w.do("mount %s %s %s %#x %s", s, t, f, flags, data)
		},
		Unmount: func(t string, flags int) error { return w.do("unmount %s", t) },
		Chdir:   func(d string) error { return w.do("chdir %s", d) },
		Chroot:  func(d string) error { return w.do("chroot %s", d) },
		Mkdir:   func(d string, mode uint32) error { return w.do("mkdir %s %o", d, mode) },
		Rmdir:   func(d string) error { return w.do("rmdir %s", d) },
		Remove:  func(f string) error { return w.do("remove %s", f) },
		IsErofs: func(string) (bool, error) { return w.erofs, w.fail["type of /"] },
		Symlink: func(t, l string) error { return w.do("symlink %s %s", t, l) },
		ReadFile: func(name string) ([]byte, error) {
			err := w.do("read %s", name)
			w.mu.Lock()
			defer w.mu.Unlock()
			b, ok := w.files[name]
			if !ok && err == nil {
				err = unix.ENOENT
			}
			return []byte(b), err
		},
		WriteFile: func(name string, data []byte) error {
			if name == TimelinePath {
				w.mu.Lock()
				w.files[name] = string(data)
				w.mu.Unlock()
				return w.do("write %s", name)
			}
			return w.do("write %s %s", name, strings.TrimSpace(string(data)))
		},
	}
}

func (w *world) kernel() Kernel {
	return Kernel{
		OpenLog:     func() (io.Writer, error) { return w, w.do("open log") },
		LoadModule:  func(p string) error { return w.do("module %s", p) },
		SetHostname: func(n string) error { return w.do("hostname %s", n) },
		Setrlimit:   func(r int, l unix.Rlimit) error { return w.do("rlimit %d %d", r, l.Max) },
		Now:         func() time.Time { return w.now },
		SetTime:     func(t time.Time) error { return w.do("clock %d", t.Unix()) },
		CtrlAltDel:  func() error { return w.do("ctrl-alt-del") },
		Sync:        func() { _ = w.do("sync") },
		PowerOff:    func() error { return w.do("power off") },
	}
}

func (w *world) processes() Processes {
	return Processes{
		Start: func(r Role) (Child, error) {
			w.role.role = r
			return Child{Pid: rolePid, Output: w.role.out}, w.do("start %s", strings.Join(r.Args, " "))
		},
		Wait: func(nohang bool) (int, unix.WaitStatus, error) {
			if nohang {
				select {
				case c := <-w.children:
					return c.pid, c.status, c.err
				default:
					return 0, 0, unix.ECHILD
				}
			}
			c := <-w.children
			return c.pid, c.status, c.err
		},
		Exec: func(path string, args, env []string) error {
			return w.do("exec %s %s %d", path, strings.Join(args, " "), len(env))
		},
		Kill: func(pid int, sig unix.Signal) error { return w.do("kill %d %d", pid, sig) },
	}
}
