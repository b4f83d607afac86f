// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
)

// Paths says where the agent keeps and finds files. Peers know the defaults,
// so a guest uses them; tests put everything below a temporary directory.
type Paths struct {
	// Run holds bundles and sandbox files, and every mount point that the host
	// may name lies below it.
	Run string
	// Shared receives what the host copies. It lies below Run.
	Shared string
	// Namespaces holds the bind mounts of the namespaces that the containers
	// of a pod share.
	Namespaces string
	// ResolvConf is the guest's own resolver configuration, over which that of
	// the pod is mounted so that images can be pulled. Where it does not exist
	// the guest has no DNS.
	ResolvConf string
	// Modprobe loads kernel modules.
	Modprobe string
	// PauseBinary becomes /pause in a sandbox container; it has to act as
	// package pause when started under that name.
	PauseBinary string
	// Image is the root of the guest's measured image. Only programs on its file
	// system run outside of containers.
	Image string
	// Sys is where sysfs is mounted.
	Sys string
	// Random is the device that ReseedRandomDev writes to.
	Random string
}

// DefaultPaths returns the paths of a guest.
func DefaultPaths() Paths {
	return Paths{
		Run:         "/run/kata-containers",
		Shared:      "/run/kata-containers/shared/containers",
		Namespaces:  "/var/run/sandbox-ns",
		ResolvConf:  "/etc/resolv.conf",
		Modprobe:    "/sbin/modprobe",
		PauseBinary: "/proc/self/exe",
		Image:       "/",
		Sys:         "/sys",
		Random:      "/dev/random",
	}
}

// PathsBelow returns the paths for a run on a host: everything that the agent
// writes or mounts lies below dir, which has to be absolute.
func PathsBelow(dir string) Paths {
	p := DefaultPaths()
	p.Run = filepath.Join(dir, p.Run)
	p.Shared = filepath.Join(dir, p.Shared)
	p.Namespaces = filepath.Join(dir, p.Namespaces)
	p.ResolvConf = filepath.Join(dir, p.ResolvConf)
	// A development machine is no image: what a host names must not run on it.
	p.Image = filepath.Join(dir, "image")
	return p
}

func (p Paths) check() error {
	for _, s := range []string{p.Run, p.Shared, p.Namespaces, p.ResolvConf, p.Modprobe, p.PauseBinary, p.Sys, p.Random} {
		if !path.IsAbs(s) || path.Clean(s) != s || s == "/" {
			return fmt.Errorf("path %q is not absolute and clean", s)
		}
	}
	if !below(p.Run, p.Shared) {
		return errors.New("the shared directory is not below the run directory")
	}
	return nil
}

// bundle is the directory of one container.
func (p Paths) bundle(id string) string { return path.Join(p.Run, id) }

// sandboxDir holds what belongs to the pod as a whole.
func (p Paths) sandboxDir() string { return path.Join(p.Run, "sandbox") }

// below reports whether the clean path p lies below dir.
func below(dir, p string) bool {
	return len(p) > len(dir)+1 && p[:len(dir)] == dir && p[len(dir)] == '/'
}
