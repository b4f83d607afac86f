// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// overlayPrivate marks words that are meant for the agent and never reach
	// the kernel.
	overlayPrivate = "io.katacontainers."
	// overlayRW asks for an upper directory of the container's own.
	overlayRW = "io.katacontainers.fs-opt.overlay-rw"
	// overlayCreate, as a driver option, names a directory to make first.
	overlayCreate = "io.katacontainers.volume.overlayfs.create_directory="
	// maxLayers is the kernel's own limit of stacked directories
	// (OVL_MAX_STACK).
	maxLayers = 500
)

// overlay stacks directories below the run directory. The directories are held
// open and named to the kernel by descriptor: a symbolic link in one of their
// paths cannot pull a part of the guest's root into a container.
func (m *Manager) overlay(_ context.Context, r request) (_ releaseFunc, err error) {
	opts, err := ParseOptions(r.GetOptions())
	if err != nil {
		return nil, err
	}
	for _, o := range r.GetDriverOptions() {
		if dir, ok := strings.CutPrefix(o, overlayCreate); ok {
			if err := m.makeAndClose(dir); err != nil {
				return nil, err
			}
		}
	}
	layers, err := m.layers(r.owner, opts.Data)
	defer func() { err = errors.Join(err, layers.close()) }()
	if err != nil {
		return nil, err
	}
	opts.Data = layers.words
	at, err := m.makeDir(r.GetMountPoint())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, at.close()) }()
	real, err := mountAt(mountSpec{source: "overlay", fstype: "overlay", at: at, opts: opts})
	if err != nil {
		return nil, err
	}
	release := unmountAndRemove(real)
	if err := ownMount(real, -1, r.Storage); err != nil {
		return nil, errors.Join(err, release(context.Background()))
	}
	return release, nil
}

func (m *Manager) makeAndClose(dir string) error {
	p, err := m.makeDir(dir)
	if err != nil {
		return err
	}
	return p.close()
}

// layerSet is the data string of an overlay with the directories it names.
type layerSet struct {
	words []string
	held  []place
}

func (l *layerSet) close() error {
	var errs []error
	for _, p := range l.held {
		errs = append(errs, p.close())
	}
	return errors.Join(errs...)
}

// layers opens the directories in words and replaces them by their
// descriptors. The result has to be closed even after an error.
func (m *Manager) layers(owner string, words []string) (*layerSet, error) {
	l := &layerSet{}
	for _, word := range words {
		switch key(word) {
		case "lowerdir", "upperdir", "workdir":
			if err := m.addDirs(l, word); err != nil {
				return l, err
			}
		case "index", "metacopy", "redirect_dir", "xino", "volatile", "userxattr", "nfs_export":
			l.words = append(l.words, word)
		case overlayRW:
			if err := m.addUpper(l, owner); err != nil {
				return l, err
			}
		default:
			if !strings.HasPrefix(word, overlayPrivate) {
				return l, fmt.Errorf("option %q is not one of overlay: %w", word, ErrInvalid)
			}
		}
	}
	return l, nil
}

// addDirs opens the directories of one "lowerdir=a:b" word.
func (m *Manager) addDirs(l *layerSet, word string) error {
	name, list, _ := strings.Cut(word, "=")
	if strings.Contains(list, `\`) {
		return fmt.Errorf("escaped characters in %q: %w", word, ErrInvalid)
	}
	dirs := strings.Split(list, ":")
	if len(l.held)+len(dirs) > maxLayers {
		return fmt.Errorf("more than %d overlay directories: %w", maxLayers, ErrTooMany)
	}
	fds := make([]string, 0, len(dirs))
	for _, d := range dirs {
		p, err := m.open(d)
		if err != nil {
			return fmt.Errorf("overlay %s: %w", name, err)
		}
		l.held = append(l.held, p)
		fds = append(fds, p.fdPath())
	}
	l.words = append(l.words, name+"="+strings.Join(fds, ":"))
	return nil
}

// addUpper makes the container's own upper and work directories.
func (m *Manager) addUpper(l *layerSet, owner string) error {
	if owner == "" {
		return fmt.Errorf("a writable overlay needs a container: %w", ErrInvalid)
	}
	for _, kind := range []string{"upper", "work"} {
		p, err := m.makeDir(path.Join(m.cfg.Run, owner, kind))
		if err != nil {
			return err
		}
		l.held = append(l.held, p)
		l.words = append(l.words, kind+"dir="+p.fdPath())
	}
	return nil
}

// key returns the part of an option word before "=".
func key(word string) string {
	k, _, _ := strings.Cut(word, "=")
	return k
}

func joinWords(words []string) string { return strings.Join(words, ",") }

// dirMode reports whether a raw st_mode is a directory's.
func dirMode(mode uint32) bool { return mode&unix.S_IFMT == unix.S_IFDIR }
