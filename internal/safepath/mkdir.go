// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package safepath

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// MkdirAll makes the directory name inside the root together with the parents
// that are missing, each with mode (the umask applies), and returns it opened
// for reading. Symbolic links on the way, also in the last component, are
// followed inside the root; where such a link leads to nothing, what it names
// is made. A directory that exists already is left as it is.
//
// The error wraps the kernel's errno (ENOTDIR when a component is neither a
// directory nor a link to one, ELOOP for too many links), ErrBadName or
// ErrBusy.
func (r *Root) MkdirAll(name string, mode uint32) (*os.File, error) {
	fd, err := r.openat2(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) {
		fd, err = r.mkdirWalk(name, mode)
	}
	if err != nil {
		return nil, fmt.Errorf("make directory %q: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// mkdirWalk walks name component by component and makes what is missing.
func (r *Root) mkdirWalk(name string, mode uint32) (int, error) {
	w := walk{root: r.Fd(), todo: components(name), mode: mode & 0o7777}
	defer w.close()
	for len(w.todo) > 0 {
		if err := w.step(); err != nil {
			return -1, err
		}
	}
	return retry(func() (int, error) {
		return unix.Openat(w.here(), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
}

// walk is a position inside the root. It remembers the descriptor of every
// directory on the way, so that ".." goes back to one that was reached from
// the root, and never asks the kernel for the parent of a directory that may
// have been moved meanwhile.
type walk struct {
	root  int
	dirs  []int
	todo  []string // components still to walk, the next one last
	links int
	mode  uint32
}

// components returns the parts of name in reverse order.
func components(name string) []string {
	parts := strings.Split(name, "/")
	out := make([]string, 0, len(parts))
	for i := len(parts) - 1; i >= 0; i-- {
		if parts[i] != "" && parts[i] != "." {
			out = append(out, parts[i])
		}
	}
	return out
}

func (w *walk) here() int {
	if len(w.dirs) == 0 {
		return w.root
	}
	return w.dirs[len(w.dirs)-1]
}

func (w *walk) up() {
	if n := len(w.dirs); n > 0 {
		// The descriptor was opened with O_PATH; closing it cannot lose data.
		_ = unix.Close(w.dirs[n-1])
		w.dirs = w.dirs[:n-1]
	}
}

func (w *walk) close() {
	for len(w.dirs) > 0 {
		w.up()
	}
}

// step walks one component.
func (w *walk) step() error {
	part := w.todo[len(w.todo)-1]
	w.todo = w.todo[:len(w.todo)-1]
	if part == ".." {
		w.up()
		return nil
	}
	fd, err := w.enter(part)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if len(w.dirs) >= maxDepth {
			return errors.Join(unix.ENAMETOOLONG, unix.Close(fd))
		}
		w.dirs = append(w.dirs, fd)
		return nil
	case unix.S_IFLNK:
		return errors.Join(w.follow(fd), unix.Close(fd))
	default:
		return errors.Join(unix.ENOTDIR, unix.Close(fd))
	}
}

// enter opens part of the current directory with O_PATH, without following
// it, and makes it a directory when nothing has that name.
func (w *walk) enter(part string) (int, error) {
	for range maxRetries {
		fd, err := retry(func() (int, error) {
			return unix.Openat(w.here(), part, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		})
		if !errors.Is(err, unix.ENOENT) {
			return fd, err
		}
		err = unix.Mkdirat(w.here(), part, w.mode)
		if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EINTR) {
			return -1, err
		}
	}
	return -1, ErrBusy
}

// follow replaces the link fd by the components it names.
func (w *walk) follow(fd int) error {
	if w.links++; w.links > maxLinks {
		return unix.ELOOP
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return err
	}
	target := string(buf[:n])
	if n == 0 || n == len(buf) {
		return unix.ENAMETOOLONG
	}
	if target[0] == '/' {
		w.close()
	}
	w.todo = append(w.todo, components(target)...)
	return nil
}
