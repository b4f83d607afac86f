// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// worldRole makes the test binary prepare a guest's surroundings.
	worldRole   = "guest-world"
	worldFailed = 99

	podNetwork = "/run/netns/podns" // as recorded shims name it
	imageStore = "/run/kata-containers/image"
)

// world is what a guest finds when it starts.
type world struct {
	podNetwork bool   // make a network namespace at podNetwork
	storeSize  string // own tmpfs of that size for the image store
}

// command returns the command that starts the binary in the world, in a mount
// namespace of its own.
func (w world) command(self string, args ...string) *exec.Cmd {
	net := ""
	if w.podNetwork {
		net = podNetwork
	}
	cmd := exec.Command(self, append([]string{worldRole, net, w.storeSize, binary}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	return cmd
}

// enterWorld runs in the new mount namespace, whose mounts do not propagate. It
// returns only if something fails.
func enterWorld(args []string) error {
	if len(args) < 3 {
		return errors.New("world: arguments are missing")
	}
	net, size, program := args[0], args[1], args[2:]
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if net != "" {
		if err := makeNetwork(net); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
	}
	if size != "" {
		if err := os.MkdirAll(imageStore, 0o700); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", imageStore, "tmpfs", 0, "mode=700,size="+size); err != nil {
			return fmt.Errorf("mount the image store: %w", err)
		}
	}
	// The death signal was set for this process and survives the exec.
	return unix.Exec(program[0], program, os.Environ())
}

func makeNetwork(path string) error {
	if err := os.MkdirAll(path[:strings.LastIndexByte(path, '/')], 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		return err
	}
	made := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread goes with its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		made <- err
	}()
	return <-made
}
