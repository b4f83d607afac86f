// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// traces is what a guest holds outside its own memory.
type traces struct {
	mounts []string // mount points
	files  []string // paths below /run
}

// publishedLayer is a layer that is kept for later containers, and everything
// in it.
var publishedLayer = regexp.MustCompile("^/run/kata-containers/image/layers/[0-9]+(/|$)")

// traces looks at the guest's mount table and its /run.
func (g *guest) traces(t *testing.T) traces {
	t.Helper()
	var tr traces
	proc := fmt.Sprintf("/proc/%d", g.cmd.Process.Pid)
	table := must[[]byte](t)(os.ReadFile(proc + "/mountinfo"))
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			t.Fatalf("mount table line %q", line)
		}
		// A guest beside this one has its mounts there. The copies of them in
		// this namespace go when it removes its directories.
		if !strings.HasPrefix(fields[4], os.TempDir()+"/") {
			tr.mounts = append(tr.mounts, fields[4])
		}
	}
	root := proc + "/root"
	err := filepath.WalkDir(root+"/run", func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if name := strings.TrimPrefix(path, root); err == nil && !publishedLayer.MatchString(name) {
			tr.files = append(tr.files, name)
		} else if err == nil && d.IsDir() {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(tr.mounts)
	slices.Sort(tr.files)
	return tr
}

// wantNoTrace checks that nothing of a container is left: the guest is what it
// was before, and no process and no cgroup exists.
func (g *guest) wantNoTrace(t *testing.T, id string, before traces) {
	t.Helper()
	after := g.traces(t)
	if !slices.Equal(after.mounts, before.mounts) {
		t.Errorf("mounts were %v and are now %v", before.mounts, after.mounts)
	}
	if extra := without(after.files, before.files); len(extra) > 0 {
		t.Errorf("files are left: %v", extra)
	}
	if lost := without(before.files, after.files); len(lost) > 0 {
		t.Errorf("files are gone: %v", lost)
	}
	wantNoGroup(t, id)
}

func without(list, other []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool {
		_, found := slices.BinarySearch(other, s)
		return found
	})
}

// wantNoGroup checks that a container has no cgroup and no process.
func wantNoGroup(t *testing.T, id string) {
	t.Helper()
	if dirs := cgroups(cgroupParent() + "/" + id); len(dirs) > 0 {
		t.Errorf("cgroups are left: %v", dirs)
	}
	for pid, groups := range processes(t) {
		if strings.Contains(groups, id) {
			t.Errorf("process %d is left in %q", pid, groups)
		}
	}
}

// processes returns the cgroups of every process of this host.
func processes(t *testing.T) map[int]string {
	t.Helper()
	all := map[int]string{}
	for _, e := range must[[]os.DirEntry](t)(os.ReadDir("/proc")) {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		groups, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cgroup"))
		if err == nil { // it may have ended
			all[pid] = string(groups)
		}
	}
	return all
}

// wantNoSecret checks a text that the host or the pod's owner sees.
func wantNoSecret(t *testing.T, s *site, text string) {
	t.Helper()
	for i, secret := range s.secrets() {
		if strings.Contains(text, secret) {
			t.Errorf("secret %d is in a text of %d bytes", i, len(text))
		}
	}
}
