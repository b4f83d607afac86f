// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Node is the special file of a device.
type Node struct {
	// Path is where the file is in the guest.
	Path string
	// Type is "b" for a block and "c" for a character device.
	Type string
	// Major and Minor are the device's numbers.
	Major, Minor int64
}

// Number returns the numbers as "major:minor".
func (n Node) Number() string { return fmt.Sprintf("%d:%d", n.Major, n.Minor) }

// Node returns the special file name of the device directory. A file that is
// not there is ErrNotFound, one that is no device of the wanted kind, or a
// link, ErrUnsuitable. kind is unix.S_IFBLK or unix.S_IFCHR.
func (f *Finder) node(name string, kind uint32) (Node, error) {
	path := filepath.Join(f.cfg.Dev, name)
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Node{}, fmt.Errorf("%q: %w", path, ErrNotFound)
	case err != nil:
		return Node{}, fmt.Errorf("look at device %q: %w", path, err)
	case st.Mode&unix.S_IFMT != kind:
		return Node{}, fmt.Errorf("%q is not the kind of device that was asked for: %w", path, ErrUnsuitable)
	}
	letter := "c"
	if kind == unix.S_IFBLK {
		letter = "b"
	}
	return Node{Path: path, Type: letter, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev))}, nil
}

// blockNode returns the special file of the disk whose directory in sysfs is
// dir. File and directory have to agree on the numbers.
func (f *Finder) blockNode(dir string) (Node, error) {
	n, err := f.node(filepath.Base(dir), unix.S_IFBLK)
	if err != nil {
		return Node{}, err
	}
	major, minor, err := numbers(filepath.Join(dir, "dev"))
	if err != nil {
		return Node{}, err
	}
	if n.Major != major || n.Minor != minor {
		return Node{}, fmt.Errorf("%q is device %s, but the kernel says %d:%d: %w", n.Path, n.Number(), major, minor, ErrUnsuitable)
	}
	return n, nil
}

// numbers reads an attribute "major:minor".
func numbers(file string) (major, minor int64, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, 0, fmt.Errorf("read device numbers: %w", err)
	}
	a, i, _ := strings.Cut(strings.TrimSpace(string(b)), ":")
	major, err = strconv.ParseInt(a, 10, 32)
	minor, err2 := strconv.ParseInt(i, 10, 32)
	if err = errors.Join(err, err2); err != nil {
		return 0, 0, fmt.Errorf("device numbers in %q: %w", file, err)
	}
	return major, minor, nil
}

// Characters returns the character devices in a directory below /dev by name;
// none if there is no such directory.
func (f *Finder) Characters(dir string) (map[string]Node, error) {
	names, err := entries(filepath.Join(f.cfg.Dev, dir), "")
	if err != nil {
		return nil, err
	}
	nodes := map[string]Node{}
	for _, name := range names {
		n, err := f.node(filepath.Join(dir, name), unix.S_IFCHR)
		if errors.Is(err, ErrUnsuitable) || errors.Is(err, ErrNotFound) {
			continue // a directory, or gone again
		}
		if err != nil {
			return nil, err
		}
		nodes[name] = n
	}
	return nodes, nil
}
