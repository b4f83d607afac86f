// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"cocoon/internal/wire/agentpb"
)

// image is a directory that stands for the guest's image, with a program that
// notes each call in a log.
type image struct{ dir, program, log string }

func newImage(t *testing.T) image {
	t.Helper()
	dir := t.TempDir()
	i := image{dir: dir, program: filepath.Join(dir, "hook"), log: filepath.Join(dir, "log")}
	i.script(t, "hook", `echo "$1 $(cat)" >>`+i.log)
	return i
}

func (i image) script(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(i.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	return path
}

func (i image) hook(name string) []*agentpb.Hook {
	return []*agentpb.Hook{{Path: i.program, Args: []string{"hook", name}}}
}

// calls returns what was noted: a word, and the state that came with it.
func (i image) calls(t *testing.T) (names []string, states []specs.State) {
	t.Helper()
	b, err := os.ReadFile(i.log)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		name, text, _ := strings.Cut(line, " ")
		var s specs.State
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatalf("state of %s: %v: %q", name, err, text)
		}
		names, states = append(names, name), append(states, s)
	}
	return names, states
}

func TestHooksRunInTheirOrderWithTheContainersState(t *testing.T) {
	t.Parallel()
	i := newImage(t)
	for _, kind := range []string{"prestart", "poststart", "poststop"} {
		i.script(t, "oci/"+kind+"/10-guest", fmt.Sprintf(`echo "guest-$1 $(cat)" >>%s`, i.log))
	}
	i.script(t, "oci/prestart/20-not-executable", "exit 1")
	if err := errors.Join(os.Chmod(i.dir+"/oci/prestart/20-not-executable", 0o644), os.Symlink("/bin/false", i.dir+"/oci/prestart/30-link")); err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, guestOptions{change: func(d *Deps) { d.Paths.Image = i.dir }})
	if _, err := g.CreateSandbox(limited(t), &agentpb.CreateSandboxRequest{GuestHookPath: i.dir + "/oci"}); err != nil {
		t.Fatal(err)
	}
	r := g.container("hooked", "sh", "-c", "cat /started; sleep 100")
	r.OCI.Hooks = &agentpb.Hooks{
		Prestart: i.hook("prestart"), CreateRuntime: i.hook("createRuntime"), CreateContainer: i.hook("createContainer"),
		StartContainer: []*agentpb.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat >/started; echo >>/started"}}},
		Poststart:      i.hook("poststart"), Poststop: i.hook("poststop"),
	}
	g.created(t, r)
	before := []string{"prestart", "guest-prestart", "createRuntime", "createContainer"}
	names, states := i.calls(t)
	if !slices.Equal(names, before) {
		t.Fatalf("before the start: %q, want %q", names, before)
	}
	for n, s := range states {
		if s.ID != "hooked" || s.Bundle != g.paths.bundle("hooked") || s.Version == "" {
			t.Errorf("state for %s: %+v", names[n], s)
		}
	}
	if _, err := g.StartContainer(limited(t), &agentpb.StartContainerRequest{ContainerId: "hooked"}); err != nil {
		t.Fatal(err)
	}
	g.readUntil(t, "hooked", "", `"id":"hooked"`)
	g.remove(t, "hooked")
	want := append(before, "poststart", "guest-poststart", "poststop", "guest-poststop")
	if names, _ := i.calls(t); !slices.Equal(names, want) {
		t.Errorf("in all: %q, want %q", names, want)
	}
}

func TestAHookThatFailsStopsWhatItBelongsTo(t *testing.T) {
	t.Parallel()
	i := newImage(t)
	i.script(t, "bad", "exit 3")
	g := newGuest(t, guestOptions{change: func(d *Deps) { d.Paths.Image = i.dir }})
	bad := []*agentpb.Hook{{Path: i.dir + "/bad", Args: []string{"bad"}}}
	for name, h := range map[string]*agentpb.Hooks{
		"prestart": {Prestart: bad}, "createRuntime": {CreateRuntime: bad}, "createContainer": {CreateContainer: bad},
	} {
		r := g.container("fails-to-create", "true")
		r.OCI.Hooks = h
		_, err := g.CreateContainer(limited(t), r)
		if err == nil || !strings.Contains(err.Error(), "exit status 3") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, h := range map[string]*agentpb.Hooks{
		"startContainer": {StartContainer: []*agentpb.Hook{{Path: "/bin/false", Args: []string{"false"}}}}, "poststart": {Poststart: bad},
	} {
		r := g.container("fails-to-start", "sleep", "100")
		r.OCI.Hooks = h
		g.created(t, r)
		if _, err := g.StartContainer(limited(t), &agentpb.StartContainerRequest{ContainerId: "fails-to-start"}); err == nil && name == "poststart" {
			t.Errorf("%s: started", name)
		}
		if code := g.wait(t, "fails-to-start", ""); code == 0 {
			t.Errorf("%s: the process went on and ended with 0", name)
		}
		g.remove(t, "fails-to-start")
	}
	r := g.container("fails-to-end", "true")
	r.OCI.Hooks = &agentpb.Hooks{Poststop: bad}
	g.created(t, r)
	g.remove(t, "fails-to-end") // as the specification wants it: only logged
	g.started(t, "fails-to-end", "true")
}

func TestAHookThatHangsIsEnded(t *testing.T) {
	t.Parallel()
	i := newImage(t)
	g := newGuest(t, guestOptions{change: func(d *Deps) { d.Paths.Image = i.dir }})
	r := g.container("hangs", "true")
	r.OCI.Hooks = &agentpb.Hooks{Prestart: []*agentpb.Hook{{Path: i.script(t, "hang", "exec sleep 1000"), Args: []string{"hang"}, Timeout: 1}}}
	_, err := g.CreateContainer(limited(t), r)
	if err == nil || !strings.Contains(err.Error(), "ran past specified timeout") {
		t.Errorf("%v", err)
	}
}

// The host may name any file, and it fills some directories itself.
func TestAHookThatIsNoProgramOfTheImageIsRefused(t *testing.T) {
	t.Parallel()
	needRoot(t)
	i := newImage(t)
	paths := PathsBelow(i.dir)
	paths.Image = i.dir
	own := i.script(t, "own", "exit 0")
	mount := filepath.Join(i.dir, "mount")
	if err := os.Mkdir(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	i.script(t, "mount/program", "exit 0")
	copied := i.script(t, strings.TrimPrefix(paths.Shared, i.dir)+"/copied", "exit 0")
	plain := filepath.Join(i.dir, "plain")
	if err := errors.Join(os.WriteFile(plain, nil, 0o644), os.Symlink("mount/program", i.dir+"/link"), os.Symlink(own, i.dir+"/absolute-link"),
		os.Symlink("own", i.dir+"/good-link")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{own, i.dir + "/good-link"} {
		if err := paths.isImageFile(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, path := range []string{
		"", "own", "/bin/sh", i.dir, i.dir + "/absent", plain, mount, mount + "/program", i.dir + "/link", copied,
		i.dir + "/mount/../own", i.dir + "//own", i.dir + "/own/", "/proc/self/exe", i.dir + "/own\x00",
	} {
		if err := paths.isImageFile(path); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestGuestHooksThatAreNotSoundAreRefused(t *testing.T) {
	t.Parallel()
	i := newImage(t)
	g := newGuest(t, guestOptions{change: func(d *Deps) { d.Paths.Image = i.dir + "/image" }})
	i.script(t, "foreign/prestart/x", "exit 0")
	i.script(t, "image/file", "exit 0")
	for i2 := range maxHooks + 1 {
		i.script(t, fmt.Sprintf("image/many/poststop/%d", i2), "exit 0")
	}
	for _, dir := range []string{"relative", i.dir + "/absent", i.dir + "/image/file", i.dir + "/foreign", i.dir + "/image/../foreign", i.dir + "/image/many"} {
		if _, err := g.CreateSandbox(limited(t), &agentpb.CreateSandboxRequest{GuestHookPath: dir}); err == nil {
			t.Fatalf("%q: was taken", dir)
		}
	}
	r := g.container("many-hooks", "true")
	h := i.hook("x")[0]
	h.Path = "/bin/sh"
	r.OCI.Hooks = &agentpb.Hooks{StartContainer: slices.Repeat([]*agentpb.Hook{h}, maxHooks+1)}
	_, err := g.CreateContainer(limited(t), r)
	wantStatus(t, err, codes.InvalidArgument, "65 hooks of one kind")
}
