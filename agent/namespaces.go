// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// sharedNamespaces are the bind mounts of the namespaces that all containers
// of a pod join.
type sharedNamespaces struct {
	ipc, uts string
}

// shareNamespaces makes an IPC and a UTS namespace with the given hostname and
// keeps them alive by bind mounts in dir. An empty hostname leaves the guest's.
func shareNamespaces(dir, hostname string) (*sharedNamespaces, error) {
	if len(hostname) > 64 {
		return nil, fmt.Errorf("hostname of %d bytes: %w", len(hostname), ErrInvalid)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make namespace directory: %w", err)
	}
	ns := &sharedNamespaces{ipc: filepath.Join(dir, "ipc"), uts: filepath.Join(dir, "uts")}
	for _, p := range []string{ns.ipc, ns.uts} {
		if err := emptyFile(p); err != nil {
			return nil, err
		}
	}
	made := make(chan error, 1)
	go func() {
		// The thread is in other namespaces from here on and must not serve any
		// other goroutine: it is not unlocked, and ends with this one.
		runtime.LockOSThread()
		made <- ns.enterAndPin(hostname)
	}()
	if err := <-made; err != nil {
		return nil, errors.Join(err, ns.remove(context.Background()))
	}
	return ns, nil
}

// emptyFile makes p a fresh empty file to mount on. What an earlier sandbox
// left mounted there is taken away.
func emptyFile(p string) error {
	if err := unpin(p); err != nil {
		return err
	}
	if err := os.WriteFile(p, nil, 0o444); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	return nil
}

// enterAndPin moves the calling thread to new namespaces and mounts them.
func (ns *sharedNamespaces) enterAndPin(hostname string) error {
	if err := unix.Unshare(unix.CLONE_NEWIPC | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	if hostname != "" {
		if err := unix.Sethostname([]byte(hostname)); err != nil {
			return fmt.Errorf("set hostname %q: %w", hostname, err)
		}
	}
	for kind, p := range map[string]string{"ipc": ns.ipc, "uts": ns.uts} {
		if err := unix.Mount("/proc/thread-self/ns/"+kind, p, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("keep %s namespace at %q: %w", kind, p, err)
		}
	}
	return nil
}

// remove lets the namespaces go. It can be repeated.
func (ns *sharedNamespaces) remove(context.Context) error {
	return errors.Join(unpin(ns.ipc), unpin(ns.uts))
}

// unpin unmounts and removes one mount point; that there is none is no error.
func unpin(p string) error {
	err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %q: %w", p, err)
	}
	if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove mount point: %w", err)
	}
	return nil
}
