// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/agent/agentctl/client"
	"cocoon/internal/wire/agentpb"
)

const callLimit = time.Minute

// forever is a command that ends on SIGTERM with 7.
var forever = []string{"/bin/sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done"}

// cgroupParent keeps the groups of one test run apart from everything else.
func cgroupParent() string { return fmt.Sprintf("cocoon-guest-test-%d", os.Getpid()) }

// newID returns an id that no other container on this host has.
func newID(name string) string { return strings.ToLower(name + "-" + rand.Text()[:10]) }

func request(t *testing.T, id, image string, args ...string) *agentpb.CreateContainerRequest {
	t.Helper()
	r := must[*agentpb.CreateContainerRequest](t)(client.Container{ID: id, Image: image, Args: args, Env: []string{"PATH=/bin"}}.Request())
	r.OCI.Linux.CgroupsPath = "/" + cgroupParent() + "/" + id
	return r
}

// create creates and starts a container.
func (g *guest) create(t *testing.T, id, image string, args ...string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callLimit)
	defer cancel()
	if _, err := g.CreateContainer(ctx, request(t, id, image, args...)); err != nil {
		return err
	}
	return g.Start(ctx, id)
}

func (g *guest) sandbox(t *testing.T) {
	t.Helper()
	if err := g.CreateSandbox(t.Context(), newID("pod")); err != nil {
		t.Fatal(err)
	}
}

// wantRun runs a container to its end and removes it.
func (g *guest) wantRun(t *testing.T, id, image string) {
	t.Helper()
	if err := g.create(t, id, image, "/bin/sh", "-c", "echo good; exit 5"); err != nil {
		t.Errorf("run a good container: %v", err)
		return
	}
	var out transcript
	ctx, cancel := context.WithTimeout(t.Context(), callLimit)
	defer cancel()
	code, err := g.Attach(ctx, client.Process{ContainerID: id, ExecID: id}, client.Streams{Stdout: &out})
	if err = errors.Join(err, g.Remove(ctx, id)); err != nil || code != 5 || out.String() != "good\n" {
		t.Errorf("a good container ended with %d, %q, %v", code, out.String(), err)
	}
}

// removeCgroupParents removes the directories that stay above the containers'.
func removeCgroupParents() {
	for _, dir := range cgroups(cgroupParent()) {
		_ = unix.Rmdir(dir) // it is not empty if a test has failed
	}
}

// cgroups returns the directories of that path in all hierarchies.
func cgroups(path string) []string {
	var dirs []string
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		found, err := filepath.Glob(pattern + path)
		if err != nil {
			continue
		}
		for _, dir := range found {
			if st, err := os.Lstat(dir); err == nil && st.IsDir() {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}
