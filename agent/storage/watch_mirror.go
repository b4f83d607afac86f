// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/internal/bounded"
	"cocoon/internal/safepath"
)

const (
	// Bounds of what is mirrored, those of upstream's agent: configuration maps
	// and secrets. What is larger is mounted as it is.
	maxWatched      = 16
	maxWatchedBytes = 1 << 20

	// modeBits are those of a mode that a copy keeps.
	modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
)

var errTooLarge = errors.New("too large for a copy")

// mirror is a copy of a directory tree. Both ends are held by descriptor: the
// host may put a link in the place of either at any time.
type mirror struct {
	source, target *os.Root
	temporary      string                // name of what is being made
	seen           map[string]entryState // what the copy holds
}

func newMirror(source *os.Root) *mirror {
	return &mirror{source: source, temporary: ".cocoon-" + rand.Text(), seen: make(map[string]entryState)}
}

// entryState is what tells one version of an entry from another.
type entryState struct {
	mode     fs.FileMode
	uid, gid int
	size     int64
	mtime    time.Time
	link     string
}

// sync brings the copy in step with its source. New and changed entries come
// before the old ones go, files before links: the tree of links by which
// Kubernetes replaces many files at once is never without its target. After an
// error the copy is what it was, but for the entries that were done.
func (w *mirror) sync(ctx context.Context) error {
	now, err := scan(w.source)
	if err != nil {
		return err
	}
	for _, kind := range []fs.FileMode{fs.ModeDir, 0, fs.ModeSymlink} {
		for _, name := range slices.Sorted(maps.Keys(now)) {
			e := now[name]
			if e.mode.Type() != kind || w.seen[name] == e {
				continue
			}
			if err := w.update(ctx, name, e); err != nil {
				return fmt.Errorf("copy %q: %w", name, err)
			}
			w.seen[name] = e
		}
	}
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(w.seen))) {
		if _, still := now[name]; still {
			continue
		}
		if err := w.remove(name); err != nil {
			return fmt.Errorf("remove %q from the copy: %w", name, err)
		}
	}
	return nil
}

// scan lists a tree without following links, the top directory as ".". Its size
// is bounded.
func scan(root *os.Root) (map[string]entryState, error) {
	all := map[string]entryState{}
	var total int64
	err := fs.WalkDir(root.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
		var e entryState
		if err == nil {
			e, err = stateOf(root, name)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist) && name != ".":
			return nil // gone since its directory was listed
		case err != nil:
			return err
		case e.mode&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket|fs.ModeIrregular) != 0:
			return nil // neither a device nor a pipe is copied
		}
		all[filepath.Clean(name)] = e
		total += e.size
		if len(all) > maxWatched+1 || total > maxWatchedBytes {
			return errTooLarge
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read source: %w", err)
	}
	return all, nil
}

func stateOf(root *os.Root, name string) (entryState, error) {
	st, err := root.Lstat(name)
	if err != nil {
		return entryState{}, err
	}
	e := entryState{mode: st.Mode(), mtime: st.ModTime()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		e.uid, e.gid = int(sys.Uid), int(sys.Gid)
	}
	switch st.Mode().Type() {
	case fs.ModeDir:
		e.mtime = time.Time{} // changes with each entry
	case fs.ModeSymlink:
		e.link, err = root.Readlink(name)
	case 0:
		e.size = st.Size()
	}
	return e, err
}

// update makes one entry of the copy like its source, in one step for whoever
// looks unless a directory is in its place.
func (w *mirror) update(ctx context.Context, name string, e entryState) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if e.mode.IsDir() {
		return w.updateDir(name, e)
	}
	if err := w.make(ctx, name, e); err != nil {
		return err
	}
	err := w.target.Rename(w.temporary, name)
	if err == nil {
		return nil
	}
	if st, statErr := w.target.Lstat(name); statErr != nil || !st.IsDir() {
		return err
	}
	if err := w.remove(name); err != nil {
		return err
	}
	return w.target.Rename(w.temporary, name)
}

// make makes a file or a link under the temporary name.
func (w *mirror) make(ctx context.Context, name string, e entryState) (err error) {
	if err := w.remove(w.temporary); err != nil {
		return err
	}
	if e.mode.Type() == fs.ModeSymlink {
		if err := w.target.Symlink(e.link, w.temporary); err != nil {
			return err
		}
		return w.target.Lchown(w.temporary, e.uid, e.gid)
	}
	b, err := readBounded(w.source, name)
	if errors.Is(err, bounded.ErrTooLarge) {
		return fmt.Errorf("%w: %w", errTooLarge, err)
	}
	if err == nil {
		err = context.Cause(ctx) // reading may have taken long
	}
	if err != nil {
		return err
	}
	f, err := w.target.OpenFile(w.temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Chown(e.uid, e.gid); err != nil {
		return err
	}
	return f.Chmod(e.mode & modeBits) // last: a new owner takes bits away
}

func (w *mirror) updateDir(name string, e entryState) error {
	err := fs.ErrExist // of the top directory
	if name != "." {
		err = w.target.Mkdir(name, 0o700)
	}
	if errors.Is(err, fs.ErrExist) {
		st, statErr := w.target.Lstat(name)
		if err = statErr; err == nil && !st.IsDir() {
			if err = w.remove(name); err == nil {
				err = w.target.Mkdir(name, 0o700)
			}
		}
	}
	if err != nil {
		return err
	}
	if err := w.target.Lchown(name, e.uid, e.gid); err != nil {
		return err
	}
	return w.target.Chmod(name, e.mode&modeBits)
}

// remove takes an entry out of the copy with all that is below it.
func (w *mirror) remove(name string) error {
	dir, err := w.target.Open(path.Dir(name))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		err = nil
	} else if err == nil {
		err = errors.Join(safepath.RemoveAll(dir, path.Base(name)), dir.Close())
	}
	if err != nil {
		return err
	}
	maps.DeleteFunc(w.seen, func(n string, _ entryState) bool { return n == name || strings.HasPrefix(n, name+"/") })
	return nil
}

// cover mounts the source on the copy.
func (w *mirror) cover(from place) (err error) {
	tree, err := unix.OpenTree(int(from.f.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|unix.AT_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("clone the mount of the source: %w", err)
	}
	source := place{f: os.NewFile(uintptr(tree), "source")}
	defer func() { err = errors.Join(err, source.close()) }()
	top, err := w.target.Open(".")
	if err != nil {
		return err
	}
	at := place{f: top}
	defer func() { err = errors.Join(err, at.close()) }()
	return attachMount(source, at)
}

// readBounded reads a file that may have become larger, or something else,
// since it was looked at.
func readBounded(root *os.Root, name string) (_ []byte, err error) {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file any more: %w", st.Mode().Type(), fs.ErrNotExist)
	}
	return bounded.ReadAll(f, maxWatchedBytes)
}
