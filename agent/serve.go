// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
)

const (
	// replyGrace is how long connections stay open after DestroySandbox, so
	// that its answer gets out. Clients that close earlier shorten it.
	replyGrace = time.Second

	// stopLimit bounds the wait for handlers after their contexts have ended.
	stopLimit = 10 * time.Second
)

// Serve accepts connections on l until ctx ends, the sandbox is destroyed, or
// l fails. It returns nil after DestroySandbox was answered, and after ctx
// ended. It closes l and all connections, and waits for their calls. The chain
// of interceptors is that of NewServer.
func (a *Agent) Serve(ctx context.Context, l net.Listener, before ...ttrpc.UnaryServerInterceptor) error {
	srv, err := a.NewServer(before...)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	a.servers.enter()
	defer a.servers.leave()

	callCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	conns := newConnSet(l)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(callCtx, conns) }()

	var result error
	select {
	case err := <-failed:
		failed <- err
		if !errors.Is(err, ttrpc.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			result = fmt.Errorf("accept agent connections: %w", err)
		}
	case <-ctx.Done():
	case <-a.sandbox.destroyed:
		conns.stopAccepting()
		conns.awaitNone(replyGrace)
	}
	cancel()
	// Close ends idle connections and the listener; what is left after the
	// calls had their time is cut off.
	err = srv.Close()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		result = errors.Join(result, fmt.Errorf("close agent listener: %w", err))
	}
	conns.awaitNone(stopLimit)
	conns.cut()
	<-failed //nolint:errcheck // its reason is in result, or was ours
	return result
}

// serverCount closes done when the sandbox is destroyed and no Serve is left.
type serverCount struct {
	done chan struct{}

	mu       sync.Mutex
	active   int
	finished bool
	closed   bool
}

func (s *serverCount) enter() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active++
}

func (s *serverCount) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
	s.settle()
}

// finish notes that the sandbox is destroyed.
func (s *serverCount) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finished = true
	s.settle()
}

// settle closes done when it is time. The caller holds s.mu.
func (s *serverCount) settle() {
	if s.finished && s.active == 0 && !s.closed {
		s.closed = true
		close(s.done)
	}
}

// connSet is a listener that knows the connections it has accepted. ttrpc's own
// count tells idle from busy wrongly for a moment, in which an answer could be
// lost.
type connSet struct {
	net.Listener

	mu    sync.Mutex
	conns map[*trackedConn]struct{}
	none  chan struct{} // closed when the last connection of a stopped listener goes
	stop  bool
}

func newConnSet(l net.Listener) *connSet {
	return &connSet{Listener: l, conns: make(map[*trackedConn]struct{}), none: make(chan struct{})}
}

// Accept waits for the next connection.
func (s *connSet) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	t := &trackedConn{Conn: c, set: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop {
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
	s.conns[t] = struct{}{}
	return t, nil
}

// stopAccepting closes the listener and lets connections be.
func (s *connSet) stopAccepting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop {
		return
	}
	s.stop = true
	// The listener may be closed already; either way nothing comes any more.
	_ = s.Listener.Close()
	s.settle()
}

// settle closes none when nothing is left. The caller holds s.mu.
func (s *connSet) settle() {
	if !s.stop || len(s.conns) > 0 {
		return
	}
	select {
	case <-s.none:
	default:
		close(s.none)
	}
}

// awaitNone stops accepting and waits until the last connection is closed, but
// not longer than limit.
func (s *connSet) awaitNone(limit time.Duration) {
	s.stopAccepting()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-s.none:
	case <-t.C:
	}
}

// cut closes every connection that is still open.
func (s *connSet) cut() {
	s.mu.Lock()
	left := make([]*trackedConn, 0, len(s.conns))
	for c := range s.conns {
		left = append(left, c)
	}
	s.mu.Unlock()
	for _, c := range left {
		// The peer is gone or about to be; there is nobody to tell.
		_ = c.Close()
	}
}

// trackedConn takes itself out of its set when it is closed.
type trackedConn struct {
	net.Conn
	set  *connSet
	once sync.Once
}

// Close closes the connection.
func (c *trackedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.set.mu.Lock()
		defer c.set.mu.Unlock()
		delete(c.set.conns, c)
		c.set.settle()
	})
	return err
}
