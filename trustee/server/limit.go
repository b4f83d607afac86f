// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net"
	"sync"
)

// limited is a listener that keeps a bounded number of connections open: the
// next one waits in the kernel's queue until another ends. The time limits of
// the server end those that do nothing.
type limited struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
	close  func() error
}

func limit(l net.Listener, conns int) *limited {
	closed := make(chan struct{})
	return &limited{
		Listener: l, slots: make(chan struct{}, conns), closed: closed,
		close: sync.OnceValue(func() error { close(closed); return l.Close() }),
	}
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &slotted{Conn: c, release: sync.OnceFunc(func() { <-l.slots })}, nil
}

// Close implements net.Listener.
func (l *limited) Close() error { return l.close() }

// slotted gives its slot back when it is closed, however often that happens.
type slotted struct {
	net.Conn
	release func()
}

// Close implements net.Conn.
func (c *slotted) Close() error {
	defer c.release()
	return c.Conn.Close()
}
