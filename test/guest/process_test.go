// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cocoon/internal/wire/agentpb"
)

// withoutWorld starts the guest in the host's own mount namespace, below a
// directory: what it leaves there outlives it and can be seen.
func withoutWorld(t *testing.T, s settings) (*guest, string) {
	t.Helper()
	needRoot(t)
	root := must[string](t)(os.MkdirTemp("", "cr")) //nolint:usetesting // sockets below it need a short path
	t.Cleanup(func() {
		for _, m := range mountsBelow(t, root) {
			t.Errorf("mount %s is left", m)
			if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
				t.Fatal(err) // nothing below is removed then
			}
		}
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	s.root = root
	return start(t, s), root
}

func mountsBelow(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	for line := range strings.Lines(string(must[[]byte](t)(os.ReadFile("/proc/thread-self/mountinfo")))) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			found = append([]string{f[4]}, found...) // the last mounted first
		}
	}
	return found
}

// moveBelow puts the paths of a request below the directory of --root.
func moveBelow(root string, r *agentpb.CreateContainerRequest) {
	for _, s := range r.GetStorages() {
		s.MountPoint = root + s.GetMountPoint()
	}
	r.OCI.Root.Path = root + r.GetOCI().GetRoot().GetPath()
	for _, m := range r.GetOCI().GetMounts() {
		if strings.HasPrefix(m.GetSource(), "/run/") {
			m.Source = root + m.GetSource()
		}
	}
}

func TestASignalEndsAGuestWithItsContainers(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			g, root := withoutWorld(t, s.settings())
			if _, err := g.AgentServiceService.CreateSandbox(t.Context(), &agentpb.CreateSandboxRequest{SandboxId: newID("pod"), Storages: []*agentpb.Storage{{
				Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: root + "/run/kata-containers/sandbox/shm",
			}}}); err != nil {
				t.Fatal(err)
			}
			id := newID("app")
			// The command does not care for signals.
			r := request(t, id, s.plain(t, "app"), "/bin/sh", "-c", "trap '' TERM INT HUP; while :; do sleep 0.1; done")
			moveBelow(root, r)
			if _, err := g.CreateContainer(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if err := g.Start(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			if len(mountsBelow(t, root)) == 0 || len(cgroups(cgroupParent()+"/"+id)) == 0 {
				t.Fatal("a running container has neither mounts nor a cgroup")
			}
			if err := g.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			g.wantEnd(t)
			if left := mountsBelow(t, root); len(left) > 0 {
				t.Errorf("mounts are left: %v", left)
			}
			wantNoGroup(t, id)
		})
	}
}

func TestWrongFlagsEndWithTwo(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"unknown flag":    {[]string{"guest", "--nonsense"}, "nonsense"},
		"no value":        {[]string{"guest", "--policy"}, "policy"},
		"an argument":     {[]string{"guest", "extra"}, "\"extra\""},
		"no scheme":       {[]string{"guest", "--agent-listen", "/agent.sock"}, "/agent.sock"},
		"unknown scheme":  {[]string{"guest", "--agent-listen", "http://127.0.0.1:1"}, "http"},
		"unknown command": {[]string{"gust"}, "usage: cocoon guest"},
		"no command":      {nil, "usage: cocoon guest"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), binary, c.args...)
			out, err := cmd.CombinedOutput()
			if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.ExitCode() != 2 {
				t.Errorf("it ended with %v, want 2", err)
			}
			if first, _, _ := strings.Cut(string(out), "\n"); !strings.Contains(first, c.want) {
				t.Errorf("it prints %q, want %q first", out, c.want)
			}
			t.Logf("it prints: %s", out)
		})
	}
}

func TestAGuestDoesNotStartWithoutItsFiles(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, flag := range []string{"--policy", "--aa-config", "--cdh-config"} {
		t.Run(flag, func(t *testing.T) {
			t.Parallel()
			o := s.settings()
			o.flags = []string{flag, "/absent/file"}
			g := launch(t, o)
			if err := g.waitEnd(); err == nil {
				t.Error("it ended well")
			}
			wantOneErrorLine(t, g.out.String(), "/absent/file")
		})
	}
}

func TestAStaleSocketIsReplaced(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	o := s.settings()
	o.prepare = func(socket string) {
		l := must[*net.UnixListener](t)(net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: socket}))
		l.SetUnlinkOnClose(false)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	g := start(t, o)
	if err := g.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAFileInTheSocketsPlaceIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for name, make := range map[string]func(path string) error{
		"file":      func(path string) error { return os.WriteFile(path, []byte("mine"), 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"link": func(path string) error {
			return errors.Join(os.WriteFile(path+".target", []byte("mine"), 0o600), os.Symlink(filepath.Base(path)+".target", path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := s.settings()
			var before os.FileInfo
			o.prepare = func(socket string) {
				if err := make(socket); err != nil {
					t.Fatal(err)
				}
				before = must[os.FileInfo](t)(os.Lstat(socket))
			}
			g := launch(t, o)
			if err := g.waitEnd(); err == nil {
				t.Error("it ended well")
			}
			wantOneErrorLine(t, g.out.String(), g.socket(), "in the way")
			after := must[os.FileInfo](t)(os.Lstat(g.socket()))
			if !os.SameFile(before, after) || !after.ModTime().Equal(before.ModTime()) || after.Size() != before.Size() {
				t.Error("what was there has changed")
			}
		})
	}
}
