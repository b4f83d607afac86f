// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	goruntime "runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// sysctlPath turns the name of a net.* parameter into a path below
// /proc/sys/net. As in sysctl(8), the first separator decides which of . and /
// separates, and the other one is part of a name: "net/ipv4/conf/eth0.5/x".
func sysctlPath(name string) (string, error) {
	if strings.HasPrefix(name, "net.") {
		swap := strings.NewReplacer(".", "/", "/", ".")
		name = swap.Replace(name)
	}
	rest, ok := strings.CutPrefix(name, "net/")
	parts := strings.Split(rest, "/")
	bad := func(p string) bool { return p == "" || p == "." || p == ".." || strings.ContainsRune(p, 0) }
	if !ok || slices.ContainsFunc(parts, bad) {
		return "", refuse("malformed sysctl %q", name)
	}
	return rest, nil
}

// applyNetSysctls writes parameters in the network namespace at nsPath, or in
// the agent's if nsPath is empty. A parameter that this kernel does not have is
// skipped and returned; a value that it does not take is an error.
func applyNetSysctls(nsPath string, params map[string]string) (skipped []string, err error) {
	if len(params) == 0 {
		return nil, nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if nsPath == "" {
			skipped, err = writeNetSysctls(params)
			return
		}
		// Never unlocked: the thread ends with this goroutine, so no other code
		// can find itself in the foreign namespace.
		goruntime.LockOSThread()
		if err = enterNetNS(nsPath); err == nil {
			skipped, err = writeNetSysctls(params)
		}
	}()
	<-done
	return skipped, err
}

func enterNetNS(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace %q: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %q: %w", path, err)
	}
	return nil
}

// writeNetSysctls relies on /proc/sys/net showing the namespace of the thread
// that looks a name up.
func writeNetSysctls(params map[string]string) (skipped []string, err error) {
	root, err := os.OpenRoot("/proc/sys/net")
	if err != nil {
		return nil, fmt.Errorf("open sysctl directory: %w", err)
	}
	defer root.Close()
	for name, value := range params {
		path, err := sysctlPath(name)
		if err != nil {
			return nil, err
		}
		f, err := root.OpenFile(path, os.O_WRONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			skipped = append(skipped, name)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open sysctl %q: %w", name, err)
		}
		_, err = f.WriteString(value)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("write sysctl %q: %w", name, err)
		}
	}
	return skipped, nil
}
