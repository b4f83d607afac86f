// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"cocoon/agent/storage"
	"cocoon/internal/safepath"
	"cocoon/internal/wire/agentpb"
)

// The bundle of a container is its directory below the run directory. It
// holds rootfs and, for some drivers, working directories. The specification
// itself is not written there: it may hold opened secrets, and the runtime
// takes it as a value.

// makeBundle makes an empty bundle. What an earlier container of the same id
// left there is removed, unless something is mounted in it.
func (s *sandbox) makeBundle(id string) error {
	dir := s.paths.bundle(id)
	if err := os.MkdirAll(s.paths.Run, 0o755); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	if err := storage.RemoveTree(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make bundle: %w", err)
	}
	return nil
}

// setRoot makes <bundle>/rootfs the container's root. If no storage has put a
// root there, the directory that the specification names is bound to it.
func (s *sandbox) setRoot(ctx context.Context, id string, spec *specs.Spec) error {
	if spec.Root == nil {
		return fmt.Errorf("no root in the specification: %w", ErrInvalid)
	}
	root := path.Join(s.paths.bundle(id), "rootfs")
	_, err := os.Lstat(root)
	if errors.Is(err, os.ErrNotExist) {
		err = s.storages.Attach(ctx, id, []*agentpb.Storage{{Driver: "bind", Source: spec.Root.Path, MountPoint: root}})
	}
	if err != nil {
		return fmt.Errorf("make root of container: %w", err)
	}
	real, err := filepath.EvalSymlinks(root)
	if err != nil {
		return fmt.Errorf("find root of container: %w", err)
	}
	run, err := filepath.EvalSymlinks(s.paths.Run)
	if err != nil {
		return fmt.Errorf("find run directory: %w", err)
	}
	if !below(run, real) {
		return fmt.Errorf("the root of the container is at %q: %w", real, ErrInvalid)
	}
	spec.Root.Path = real
	return nil
}

// confineMounts resolves the sources of bind mounts. Those below the run
// directory, where the host can put symbolic links, get the path that was
// found inside, so that a link cannot bring in a part of the guest; so do
// relative ones, which lie in the bundle, where an image can put links. A
// source elsewhere must not lead through a link: it may lie in a volume that a
// container writes to, and policy has judged its name only.
func (s *sandbox) confineMounts(bundle string, mounts []specs.Mount) error {
	for i := range mounts {
		m := &mounts[i]
		if !isBind(m) {
			continue
		}
		if path.Clean(m.Source) != m.Source {
			return fmt.Errorf("mount source %q is not clean: %w", m.Source, ErrInvalid)
		}
		if !path.IsAbs(m.Source) {
			if !filepath.IsLocal(m.Source) {
				return fmt.Errorf("mount source %q leaves the bundle: %w", m.Source, ErrInvalid)
			}
			m.Source = path.Join(bundle, m.Source)
		}
		real, err := s.resolveSource(m.Source)
		if err != nil {
			return fmt.Errorf("source of mount %q: %w", m.Destination, err)
		}
		m.Source = real
	}
	return nil
}

func (s *sandbox) resolveSource(source string) (string, error) {
	if top := s.confinement(source); top != "" {
		return resolveBelow(top, source)
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, source, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return "", fmt.Errorf("open %q without following links: %w", source, err)
	}
	return source, unix.Close(fd)
}

func isBind(m *specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// confinement returns the directory that a source must not lead out of, or "".
func (s *sandbox) confinement(source string) string {
	switch {
	case below(s.paths.Shared, source):
		return s.paths.Shared
	case below(s.paths.Run, source):
		return s.paths.Run
	}
	return ""
}

// resolveBelow returns the path without symbolic links of what p names inside
// the directory top.
func resolveBelow(top, p string) (_ string, err error) {
	root, err := safepath.OpenRoot(top)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	f, err := root.Open(strings.TrimPrefix(p, top+"/"), unix.O_PATH, 0)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return "", fmt.Errorf("find the path of %q: %w", p, err)
	}
	return real, nil
}
