// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package unpack

import "os"

// maxParents bounds the directories that are kept open per layer.
const maxParents = 32

// parent is an open directory of the layer.
type parent struct {
	file *os.File
	fd   int
}

// parents keeps the directories that entries were made in last, by the path
// that led there. Archives list a directory's files one after the other, so
// that a few descriptors spare nearly all path walks.
type parents struct {
	open  map[string]*parent
	order []string // oldest first
	stale bool
}

// get returns the directory dir if it is open. After a replacement nothing is
// taken from before it.
func (c *parents) get(dir string) *parent {
	if c.stale {
		c.flush()
	}
	c.trim()
	return c.open[dir]
}

// put adds an open directory; the cache closes it.
func (c *parents) put(dir string, f *os.File) *parent {
	if c.open == nil {
		c.open = make(map[string]*parent, maxParents)
	}
	p := &parent{file: f, fd: int(f.Fd())}
	if old := c.open[dir]; old != nil {
		c.closeDir(old)
	} else {
		c.order = append(c.order, dir)
	}
	c.open[dir] = p
	return p
}

// trim closes the oldest directories beyond the limit. It is called between
// entries, when nobody holds a parent.
func (c *parents) trim() {
	for len(c.order) > maxParents {
		c.closeDir(c.open[c.order[0]])
		delete(c.open, c.order[0])
		c.order = append(c.order[:0], c.order[1:]...)
	}
}

// flush closes all directories.
func (c *parents) flush() {
	for _, p := range c.open {
		c.closeDir(p)
	}
	clear(c.open)
	c.order = c.order[:0]
	c.stale = false
}

// closeDir closes a directory that was only read; that cannot lose data.
func (c *parents) closeDir(p *parent) { _ = p.file.Close() }
