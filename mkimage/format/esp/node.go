// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"path"
	"regexp"
)

const (
	label       = "COCOON     "
	isLabel     = 0x08
	isDirectory = 0x10
	isArchive   = 0x20
	// firstDay is 1980-01-01.
	firstDay = 1<<5 | 1
)

var shortName = regexp.MustCompile(`^([A-Z0-9_-]{1,8})(?:\.([A-Z0-9_-]{1,3}))?$`)

// node is a file or a directory.
type node struct {
	name     string // as directories have it, of 11 bytes
	dir      bool
	parent   *node
	children []*node
	data     []byte
	first    uint32 // of its clusters, which follow each other
}

// builder holds the nodes by their paths.
type builder map[string]*node

// add makes a node, and the directories above it that are not there.
func (t builder) add(p string) (*node, error) {
	part := shortName.FindStringSubmatch(path.Base(p))
	if !fs.ValidPath(p) || part == nil {
		return nil, fmt.Errorf("path %q: %w", p, ErrFile)
	}
	dir := t[path.Dir(p)]
	if dir == nil {
		var err error
		if dir, err = t.add(path.Dir(p)); err != nil {
			return nil, err
		}
		dir.dir = true
	}
	if !dir.dir {
		return nil, fmt.Errorf("path %q leads through a file: %w", p, ErrFile)
	}
	n := &node{name: fmt.Sprintf("%-8s%-3s", part[1], part[2]), parent: dir}
	dir.children = append(dir.children, n)
	t[p] = n
	return n, nil
}

// list appends the node and all below it.
func (n *node) list(to []*node) []*node {
	to = append(to, n)
	for _, c := range n.children {
		to = c.list(to)
	}
	return to
}

// clusters returns how many the node takes.
func (n *node) clusters() uint32 {
	if n.dir {
		return up(32 * uint32(len(n.children)+2))
	}
	return up(uint32(len(n.data)))
}

// content returns what is in the node's clusters.
func (n *node) content() []byte {
	if !n.dir {
		return n.data
	}
	var b []byte
	switch {
	case n.parent == nil:
		b = entry(b, label, isLabel, 0, 0)
	case n.parent.parent == nil: // the root is called 0
		b = entry(entry(b, ".          ", isDirectory, n.first, 0), "..         ", isDirectory, 0, 0)
	default:
		b = entry(entry(b, ".          ", isDirectory, n.first, 0), "..         ", isDirectory, n.parent.first, 0)
	}
	for _, c := range n.children {
		if c.dir {
			b = entry(b, c.name, isDirectory, c.first, 0)
		} else {
			b = entry(b, c.name, isArchive, c.first, uint32(len(c.data)))
		}
	}
	return b
}

// entry appends an entry of a directory.
func entry(to []byte, name string, attributes byte, first, size uint32) []byte {
	b := make([]byte, 32)
	copy(b, name)
	b[11] = attributes
	for _, at := range []int{16, 18, 24} { // made, read, written
		binary.LittleEndian.PutUint16(b[at:], firstDay)
	}
	binary.LittleEndian.PutUint16(b[20:], uint16(first>>16))
	binary.LittleEndian.PutUint16(b[26:], uint16(first))
	binary.LittleEndian.PutUint32(b[28:], size)
	return append(to, b...)
}
