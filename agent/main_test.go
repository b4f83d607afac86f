// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// init makes the test binary what the guest binary is: libcontainer's child.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		libcontainer.Init()
	}
}

func TestMain(m *testing.M) {
	logrus.SetOutput(io.Discard)
	code := m.Run()
	removeCgroupParents()
	if pauseDir != "" {
		_ = os.RemoveAll(pauseDir)
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// pauseDir is where pauseProgram has built, for TestMain to remove.
var pauseDir string

// pauseProgram builds a static pause program, once for all tests; the test
// binary itself needs shared libraries, which an empty root does not have.
var pauseProgram = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "cocoon-pause")
	if err != nil {
		return "", err
	}
	pauseDir = dir
	file := filepath.Join(dir, "pause")
	cmd := exec.Command("go", "build", "-o", file, "./pause/testdata/pause")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the pause program: %w: %s", err, out)
	}
	return file, os.Chmod(dir, 0o755)
})

// cgroupParent keeps the groups of one test run apart from everything else.
func cgroupParent() string { return fmt.Sprintf("cocoon-agent-test-%d", os.Getpid()) }

// removeCgroupParents removes the empty directories that containers leave above
// their own groups.
func removeCgroupParents() {
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		for _, below := range []string{"/*/*", "/*", ""} {
			dirs, err := filepath.Glob(pattern + cgroupParent() + below)
			if err != nil {
				continue
			}
			for _, d := range dirs {
				if st, err := os.Stat(d); err == nil && st.IsDir() {
					_ = unix.Rmdir(d)
				}
			}
		}
	}
}
