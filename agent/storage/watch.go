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
	source, err := os.OpenRoot(from.fdPath())
	if err = errors.Join(err, from.close()); errors.Is(err, unix.ENOTDIR) {
		return m.bindSource(ctx, r)
	} else if err != nil {
		return nil, err
	}
	w := &mirror{source: source}
	if w.target, w.path, err = m.openTarget(r.GetMountPoint()); err != nil {
		return nil, errors.Join(err, source.Close())
	}
	err = w.sync()
	if err == nil {
		return m.follow(w), nil
	}
	if undoErr := w.remove(); undoErr != nil || !errors.Is(err, errTooLarge) {
		return nil, errors.Join(err, undoErr)
	}
	return m.bindSource(ctx, r)
}

// openTarget makes the directory of a copy and holds it.
func (m *Manager) openTarget(point string) (root *os.Root, real string, err error) {
	at, err := m.makeDir(point)
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, at.close()) }()
	if real, err = at.realPath(); err != nil {
		return nil, "", err
	}
	root, err = os.OpenRoot(at.fdPath())
	return root, real, err
}

// bindSource shows the source itself.
func (m *Manager) bindSource(ctx context.Context, r request) (releaseFunc, error) {
	return m.bind(ctx, request{owner: r.owner, Storage: &agentpb.Storage{
		Source: r.GetSource(), MountPoint: r.GetMountPoint(), Options: []string{"rbind"},
	}})
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
		return w.remove()
	}
}

var errTooLarge = errors.New("too large for a copy")

// mirror is a copy of a directory tree. Both ends are held by descriptor: the
// host may put a link in the place of either at any time.
type mirror struct {
	source, target *os.Root
	path           string // real path of the target
	seen           map[string]entryState
	closed         bool
}

// remove takes the copy away. It can be repeated.
func (w *mirror) remove() error {
	if !w.closed {
		if err := errors.Join(w.source.Close(), w.target.Close()); err != nil {
			return err
		}
		w.closed = true
	}
	return RemoveTree(w.path)
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
func (w *mirror) sync() error {
	from, to := w.source, w.target
	now, err := scan(from)
	if err != nil {
		return err
	}
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
