// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"cocoon/internal/safepath"
)

// relative returns p as a name below the run directory. p has to be absolute
// and clean, so that what the policy compared is what is used.
func (m *Manager) relative(p string) (string, error) {
	if !path.IsAbs(p) || path.Clean(p) != p || strings.IndexByte(p, 0) >= 0 {
		return "", fmt.Errorf("path %q is not absolute and clean: %w", p, ErrInvalid)
	}
	rel, ok := strings.CutPrefix(p, m.cfg.Run+"/")
	if !ok {
		return "", fmt.Errorf("path %q is not below %q: %w", p, m.cfg.Run, ErrInvalid)
	}
	return rel, nil
}

// place is a file or directory below the run directory, held open so that it
// stays the same one whatever happens to its name.
type place struct {
	f *os.File
}

// fdPath names the place for calls that take a path.
func (p place) fdPath() string { return fmt.Sprintf("/proc/self/fd/%d", p.f.Fd()) }

// realPath returns the path under which the place is reached without any
// symbolic link.
func (p place) realPath() (string, error) {
	real, err := os.Readlink(p.fdPath())
	if err != nil {
		return "", fmt.Errorf("find the path of %q: %w", p.f.Name(), err)
	}
	return real, nil
}

func (p place) close() error { return p.f.Close() }

// open opens what p names below the run directory.
func (m *Manager) open(p string) (place, error) {
	return m.inRun(p, func(r *safepath.Root, rel string) (*os.File, error) {
		return r.Open(rel, unix.O_PATH, 0)
	})
}

// makeDir makes the directory p below the run directory and its parents, and
// opens it.
func (m *Manager) makeDir(p string) (place, error) {
	return m.checkedPlace(m.inRun(p, func(r *safepath.Root, rel string) (*os.File, error) {
		return r.MkdirAll(rel, 0o755)
	}))
}

// checkedPlace passes on a place that may be mounted on.
func (m *Manager) checkedPlace(at place, err error) (place, error) {
	if err != nil {
		return place{}, err
	}
	if err := m.outsideRoots(at); err != nil {
		return place{}, errors.Join(err, at.close())
	}
	return at, nil
}

// makeFile makes the empty file p below the run directory, its parents as
// needed, and opens it.
func (m *Manager) makeFile(p string) (place, error) { return m.checkedPlace(m.newFile(p)) }

// newFile is makeFile for what the guest itself puts into a container's root.
func (m *Manager) newFile(p string) (place, error) {
	return m.inRun(p, func(r *safepath.Root, rel string) (*os.File, error) {
		parent, err := r.MkdirAll(path.Dir(rel), 0o755)
		if err != nil {
			return nil, err
		}
		if err := parent.Close(); err != nil {
			return nil, err
		}
		return r.Open(rel, unix.O_CREAT|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	})
}

func (m *Manager) inRun(p string, do func(*safepath.Root, string) (*os.File, error)) (place, error) {
	rel, err := m.relative(p)
	if err != nil {
		return place{}, err
	}
	root, err := safepath.OpenRoot(m.cfg.Run)
	if err != nil {
		return place{}, err
	}
	f, err := do(root, rel)
	if err := errors.Join(err, root.Close()); err != nil {
		return place{}, err
	}
	return place{f: f}, nil
}

// outsideRoots returns an error for a place to mount on that lies in a
// container's root, or among the layers of one: what is mounted there covers
// what was verified. It looks at where the place is, not at its name, which may
// lead through links of the host.
func (m *Manager) outsideRoots(at place) error {
	run, err := filepath.EvalSymlinks(m.cfg.Run)
	if err != nil {
		return err
	}
	real, err := at.realPath()
	if err != nil {
		return err
	}
	parts := strings.Split(strings.TrimPrefix(real, run+"/"), "/")
	if len(parts) > 2 && (parts[1] == rootfs || parts[1] == layersDir) {
		return fmt.Errorf("mount point %q lies in the root of a container: %w", real, ErrInvalid)
	}
	return nil
}

// mountSpec is one mount(2).
type mountSpec struct {
	source, fstype string
	at             place
	opts           Options
}

// mountAt mounts on an open place and returns the real path of the mount
// point. When a later step fails the mount is taken away again.
func mountAt(s mountSpec) (string, error) {
	real, err := s.at.realPath()
	if err != nil {
		return "", err
	}
	data := strings.Join(s.opts.Data, ",")
	// mount(2) takes one page and drops the rest without a word: a list of
	// layers that is cut would still mount, without some of them.
	if len(data) >= os.Getpagesize() {
		return "", fmt.Errorf("%d bytes of options for the mount on %q: %w", len(data), real, ErrInvalid)
	}
	flags := s.opts.Flags &^ unix.MS_REMOUNT
	bind := flags&unix.MS_BIND != 0
	first := flags
	if bind {
		first &= unix.MS_BIND | unix.MS_REC
	}
	if err := unix.Mount(s.source, s.at.fdPath(), s.fstype, first, data); err != nil {
		return "", fmt.Errorf("mount %q (%s) on %q: %w", s.source, s.fstype, real, err)
	}
	rest := flags &^ (unix.MS_BIND | unix.MS_REC)
	if bind && rest != 0 {
		// The kernel ignores these flags when it makes a bind mount.
		err = unix.Mount("", real, "", unix.MS_REMOUNT|unix.MS_BIND|rest, "")
	}
	if err == nil && s.opts.Propagation != 0 {
		err = unix.Mount("", real, "", s.opts.Propagation, "")
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("set flags of mount %q: %w", real, err), unmount(real))
	}
	return real, nil
}

// unmount detaches what is mounted at the real path p. Nothing mounted there
// is not an error, so that a release can be repeated.
func unmount(p string) error {
	err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %q: %w", p, err)
	}
	return nil
}

// removeDir removes the empty directory at the real path p. A parent that is
// read-only keeps it; a directory that is not empty is an error.
func removeDir(p string) error {
	err := unix.Rmdir(p)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT), errors.Is(err, unix.EROFS), errors.Is(err, unix.ENOTDIR):
		return nil
	default:
		return fmt.Errorf("remove mount point %q: %w", p, err)
	}
}

// unmountAndRemove returns the release of a plain mount.
func unmountAndRemove(real string) releaseFunc {
	return func(context.Context) error {
		if err := unmount(real); err != nil {
			return err
		}
		return removeDir(real)
	}
}
