// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"cocoon/internal/wire/agentpb"
)

// blockedCalls are as many as a pod of many containers has: each stream of each
// process is read all the time.
const blockedCalls = 200

func TestManyBlockedCallsHoldUpNobody(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	g.started(t, "silent", "sleep", "1000")
	ctx, cancel := context.WithCancel(t.Context())
	var blocked sync.WaitGroup
	failed := make(chan error, blockedCalls)
	for i := range blockedCalls {
		blocked.Go(func() {
			var err error
			switch i % 3 {
			case 0:
				_, err = g.ReadStdout(ctx, &agentpb.ReadStreamRequest{ContainerId: "silent", ExecId: "silent", Len: 32768})
			case 1:
				_, err = g.WaitProcess(ctx, &agentpb.WaitProcessRequest{ContainerId: "silent", ExecId: "silent"})
			default:
				_, err = g.GetOOMEvent(ctx, &agentpb.GetOOMEventRequest{})
			}
			failed <- err
		})
	}
	for i := range 20 {
		if _, err := g.health.Check(limited(t), &agentpb.CheckRequest{}); err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprint("exec-", i)
		_, err := g.ExecProcess(limited(t), &agentpb.ExecProcessRequest{ContainerId: "silent", ExecId: id, Process: &agentpb.Process{
			Args: []string{"echo", "here"}, Env: []string{"PATH=/bin"}, Cwd: "/", User: &agentpb.User{},
		}})
		if err != nil {
			t.Fatal(err)
		}
		if got := g.output(t, "silent", id); got != "here\n" {
			t.Errorf("%q", got)
		}
	}
	select {
	case err := <-failed:
		t.Errorf("a call ended before the container did: %v", err)
	default:
	}
	cancel()
	blocked.Wait()
}

// A working directory that is a descriptor of the agent would be a door to the
// guest's own files.
func TestAWorkingDirectoryIsNoDescriptorOfTheAgent(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	g.started(t, "inside", "sleep", "1000")
	for fd := range 32 {
		for _, dir := range []string{"/proc/self/fd/%d", "/proc/self/fd/%d/..", "/proc/1/fd/%d", "/proc/thread-self/fd/%d"} {
			cwd := fmt.Sprintf(dir, fd)
			id := fmt.Sprintf("exec-%d-%d", fd, len(dir))
			_, err := g.ExecProcess(limited(t), &agentpb.ExecProcessRequest{ContainerId: "inside", ExecId: id, Process: &agentpb.Process{
				Args: []string{"ls", "bin/busybox"}, Env: []string{"PATH=/bin"}, Cwd: cwd, User: &agentpb.User{},
			}})
			if err != nil {
				continue
			}
			// A descriptor of the container's own root would be no harm.
			if got := g.output(t, "inside", id); got != "" && got != "bin/busybox\n" {
				t.Errorf("%s: %q", cwd, got)
			}
			if g.wait(t, "inside", id) == 0 {
				t.Errorf("%s: a process ran there", cwd)
			}
		}
	}
	r := g.container("cwd", "ls")
	r.OCI.Process.Cwd = "/proc/self/fd/7"
	if _, err := g.CreateContainer(limited(t), r); err == nil {
		t.Error("a container was made in a descriptor")
	}
}

// The program that becomes a container's process is the agent's own binary for
// a moment, and a workload that is root may open it then.
func TestAWorkloadCannotOverwriteTheAgent(t *testing.T) {
	t.Parallel()
	before := ownBinary(t)
	g := newGuest(t, guestOptions{})
	const attack = `i=0; while :; do for f in /proc/[0-9]*/exe; do { echo overwritten >"$f"; } 2>/dev/null; done; i=$((i+1)); [ $i -eq 20 ] && echo done; done`
	g.created(t, g.container("attacker", "sh", "-c", attack))
	if _, err := g.StartContainer(limited(t), &agentpb.StartContainerRequest{ContainerId: "attacker"}); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		id := fmt.Sprint("victim-", i)
		_, err := g.ExecProcess(limited(t), &agentpb.ExecProcessRequest{ContainerId: "attacker", ExecId: id, Process: &agentpb.Process{
			Args: []string{"true"}, Env: []string{"PATH=/bin"}, Cwd: "/", User: &agentpb.User{},
		}})
		if err != nil {
			t.Fatal(err)
		}
		if code := g.wait(t, "attacker", id); code != 0 {
			t.Errorf("%s ended with %d", id, code)
		}
	}
	g.readUntil(t, "attacker", "", "done")
	g.remove(t, "attacker")
	r := g.container("self", "/proc/self/exe")
	if _, err := g.CreateContainer(limited(t), r); err == nil {
		if _, err := g.StartContainer(limited(t), &agentpb.StartContainerRequest{ContainerId: "self"}); err == nil {
			g.wait(t, "self", "")
		}
	}
	if after := ownBinary(t); after != before {
		t.Error("the binary has changed")
	}
	g.started(t, "afterwards", "true")
}

func ownBinary(t *testing.T) [sha256.Size]byte {
	t.Helper()
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	_, err = io.Copy(h, f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func TestAForkBombStaysInItsContainer(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	const limit = 24
	// What it forks stays, so that the limit can be seen at any time. The inner
	// shell ends when it cannot fork.
	r := g.container("bomb", "sh", "-c", "(while :; do sleep 1000 & done); echo full; exec sleep 1000")
	r.OCI.Linux.Resources = &agentpb.LinuxResources{Pids: &agentpb.LinuxPids{Limit: limit}}
	g.created(t, r)
	if _, err := g.StartContainer(limited(t), &agentpb.StartContainerRequest{ContainerId: "bomb"}); err != nil {
		t.Fatal(err)
	}
	g.readUntil(t, "bomb", "", "full")
	s, err := g.StatsContainer(limited(t), &agentpb.StatsContainerRequest{ContainerId: "bomb"})
	if err != nil {
		t.Fatal(err)
	}
	// The inner shell has ended; the first process and what was forked are left.
	if p := s.GetCgroupStats().GetPidsStats(); p.GetCurrent() > limit || p.GetCurrent() < limit-2 || p.GetLimit() != limit {
		t.Errorf("%d processes of %d", p.GetCurrent(), p.GetLimit())
	}
	g.started(t, "beside", "true")
	if code := g.wait(t, "beside", ""); code != 0 {
		t.Errorf("another container ended with %d", code)
	}
	g.remove(t, "bomb")
	g.created(t, g.container("bomb", "true"))
}

// An image may have a link where a path is to be masked or read-only.
func TestALinkInPlaceOfAMaskedPathMasksNothingOfTheGuest(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	if err := os.WriteFile(outside+"/secret", []byte("of the guest"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{outside, outside + "/secret", "../../../../../.." + outside, "/etc"} {
		g := newGuest(t, guestOptions{})
		g.puller.link = link
		r := g.container("linked", "cat", "/link/secret", "/link")
		r.OCI.Linux.MaskedPaths = []string{"/link", "/link/secret"}
		r.OCI.Linux.ReadonlyPaths = []string{"/link"}
		// A refusal is as good as a mask.
		if _, err := g.CreateContainer(limited(t), r); err == nil {
			if _, err := g.StartContainer(limited(t), &agentpb.StartContainerRequest{ContainerId: "linked"}); err == nil {
				if got := g.output(t, "linked", ""); strings.Contains(got, "of the guest") {
					t.Errorf("%s: %q", link, got)
				}
			}
		}
		if b, err := os.ReadFile(outside + "/secret"); err != nil || string(b) != "of the guest" {
			t.Errorf("%s: the guest's file is %q (%v)", link, b, err)
		}
		if err := os.WriteFile(outside+"/secret", []byte("of the guest"), 0o600); err != nil {
			t.Errorf("%s: the guest's directory is read-only: %v", link, err)
		}
		if left := mountsBelow(t, outside); len(left) > 0 {
			t.Errorf("%s: mounted on the guest's own: %q", link, left)
		}
	}
}
