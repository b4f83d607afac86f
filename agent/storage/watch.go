// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/internal/bounded"
	"cocoon/internal/wire/agentpb"
)

const (
	driverWatch = "watchable-bind"

	// Bounds of what is mirrored, those of upstream's agent: configuration maps
	// and secrets. What is larger is mounted as it is.
	maxWatched      = 16
	maxWatchedBytes = 1 << 20

	// watchEvery is how often the source is looked at.
	watchEvery = 2 * time.Second
)

// watch shows a directory of a shared file system by a copy that follows it:
// programs that wait for changes by inotify hear of none that the host makes.
func (m *Manager) watch(ctx context.Context, r request) (releaseFunc, error) {
	if !m.watchable(r.GetMountPoint()) {
		return nil, fmt.Errorf("copies that follow their source lie in %q: %w", watchRoots(m.cfg.Run), ErrInvalid)
	}
	from, err := m.open(r.GetSource())
	if err != nil {
		return nil, fmt.Errorf("source of a copy: %w", err)
	}
	source, err := from.realPath()
	if err = errors.Join(err, from.close()); err != nil {
		return nil, err
	}
	at, err := m.makeDir(r.GetMountPoint())
	if err != nil {
		return nil, err
	}
	target, err := at.realPath()
	if err = errors.Join(err, at.close()); err != nil {
		return nil, err
	}
	w := &mirror{source: source, target: target}
	err = w.sync()
	if errors.Is(err, errTooLarge) || errors.Is(err, unix.ENOTDIR) {
		if err := RemoveTree(target); err != nil {
			return nil, err
		}
		return m.bind(ctx, request{owner: r.owner, Storage: &agentpb.Storage{
			Source: r.GetSource(), MountPoint: r.GetMountPoint(), Options: []string{"rbind"},
		}})
	}
	if err != nil {
		return nil, errors.Join(err, RemoveTree(target))
	}
	return m.follow(w), nil
}

// watchRoots are the directories of copies, of the two kinds of shims.
func watchRoots(run string) []string {
	shared := path.Join(run, "shared/containers")
	return []string{path.Join(shared, "watchable"), path.Join(shared, "passthrough/watchable")}
}

func (m *Manager) watchable(point string) bool {
	return slices.ContainsFunc(watchRoots(m.cfg.Run), func(root string) bool { return strings.HasPrefix(point, root+"/") })
}

// follow keeps a copy in step until it is released.
func (m *Manager) follow(w *mirror) releaseFunc {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			// A source that has become too large, or is being replaced, keeps the
			// copy as it was; it is looked at again.
			if err := w.sync(); err != nil {
				m.cfg.Log.Warn("a copy does not follow its source", "error", err)
			}
		}
	})
	return func(context.Context) error {
		cancel()
		running.Wait()
		return RemoveTree(w.target)
	}
}

var errTooLarge = errors.New("too large for a copy")

// mirror is a copy of a directory tree.
type mirror struct {
	source, target string
	seen           map[string]entryState
}

// entryState is what tells one version of an entry from another.
type entryState struct {
	mode  fs.FileMode
	size  int64
	mtime time.Time
	link  string
}

// sync brings the copy in step with its source. New and changed entries come
// before the old ones go, files before links: the tree of links by which
// Kubernetes replaces many files at once is never without its target.
func (w *mirror) sync() (err error) {
	from, err := os.OpenRoot(w.source)
	if err != nil {
		return fmt.Errorf("open source: %w", err)
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	now, err := scan(from)
	if err != nil {
		return err
	}
	to, err := os.OpenRoot(w.target)
	if err != nil {
		return fmt.Errorf("open copy: %w", err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	for _, kind := range []fs.FileMode{fs.ModeDir, 0, fs.ModeSymlink} {
		for _, name := range slices.Sorted(maps.Keys(now)) {
			e := now[name]
			if e.mode.Type() == kind && w.seen[name] != e {
				if err := update(from, to, name, e); err != nil {
					return fmt.Errorf("copy %q: %w", name, err)
				}
			}
		}
	}
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(w.seen))) {
		if _, still := now[name]; !still {
			if err := to.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove %q from the copy: %w", name, err)
			}
		}
	}
	w.seen = now
	return nil
}

// scan lists a tree without following links. Its size is bounded.
func scan(root *os.Root) (map[string]entryState, error) {
	all := map[string]entryState{}
	var total int64
	err := fs.WalkDir(root.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name == "." {
			return nil
		}
		st, err := root.Lstat(name)
		if err != nil {
			return err
		}
		e := entryState{mode: st.Mode(), mtime: st.ModTime()}
		switch st.Mode().Type() {
		case fs.ModeDir:
			e.mtime = time.Time{} // changes with each entry
		case fs.ModeSymlink:
			if e.link, err = root.Readlink(name); err != nil {
				return err
			}
		case 0:
			e.size = st.Size()
			total += e.size
		default:
			return nil // no device and no pipe is copied
		}
		all[filepath.Clean(name)] = e
		if len(all) > maxWatched || total > maxWatchedBytes {
			return errTooLarge
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read source: %w", err)
	}
	return all, nil
}

// update makes one entry of the copy like its source, in one step for whoever
// looks.
func update(from, to *os.Root, name string, e entryState) error {
	const temporary = ".cocoon-new"
	if err := to.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch e.mode.Type() {
	case fs.ModeDir:
		if err := to.Mkdir(name, e.mode.Perm()); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return to.Chmod(name, e.mode.Perm())
	case fs.ModeSymlink:
		if err := to.Symlink(e.link, temporary); err != nil {
			return err
		}
	default:
		b, err := readBounded(from, name)
		if err != nil {
			return err
		}
		if err := to.WriteFile(temporary, b, 0o600); err != nil {
			return err
		}
		if err := to.Chmod(temporary, e.mode.Perm()); err != nil {
			return err
		}
	}
	return to.Rename(temporary, name)
}

// readBounded reads a file that may have grown since it was looked at.
func readBounded(root *os.Root, name string) ([]byte, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	b, err := bounded.ReadAll(f, maxWatchedBytes)
	return b, errors.Join(err, f.Close())
}
