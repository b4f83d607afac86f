// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package logport hands the guest's log to one reader on the host, a kata shim
// on vsock port 1025.
//
// Trust boundary. The reader is the untrusted host: what is written here has
// to be fit for it. A reader that is slow, hangs or never comes costs a bounded
// amount of memory and no time: whoever logs never waits. Lines for which there
// is no room are dropped, the oldest first, and a line says how many.
package logport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// maxPending bounds the lines that wait for a reader, in bytes.
	maxPending = 256 << 10

	// writeLimit is how long a reader may take for one piece before it is
	// taken for dead.
	writeLimit = 30 * time.Second

	// lastLimit is how long a reader may take for what is left when the guest
	// ends. The end does not wait longer for the host.
	lastLimit = time.Second
)

// Log collects lines until a reader comes. It implements io.Writer; each Write
// is one line. It is safe for concurrent use.
type Log struct {
	mu      sync.Mutex // guards what follows
	lines   [][]byte
	bytes   int
	dropped int
	closed  bool
	more    chan struct{} // gets a value when there is something to read
}

// New returns a Log that collects.
func New() *Log { return &Log{more: make(chan struct{}, 1)} }

// Write implements io.Writer. It never fails and never waits.
func (l *Log) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return len(line), nil
	}
	l.lines = append(l.lines, append([]byte(nil), line...))
	l.bytes += len(line)
	for l.bytes > maxPending {
		l.bytes -= len(l.lines[0])
		l.lines = l.lines[1:]
		l.dropped++
	}
	select {
	case l.more <- struct{}{}:
	default:
	}
	return len(line), nil
}

// Close drops everything and collects no more: nobody will come to read.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed, l.lines, l.bytes = true, nil, 0
}

// take returns what waits.
func (l *Log) take() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []byte
	if l.dropped > 0 {
		out = fmt.Appendf(out, "{\"msg\":\"log lines dropped\",\"level\":\"WARN\",\"ts\":%q,\"source\":\"agent\",\"name\":\"kata-agent\",\"count\":\"%d\"}\n",
			time.Now().UTC().Format(time.RFC3339Nano), l.dropped)
	}
	for _, line := range l.lines {
		out = append(out, line...)
	}
	l.lines, l.bytes, l.dropped = nil, 0, 0
	return out
}

// Serve hands lines to one reader after the other until ctx ends. A line is
// for one reader only. It closes the listener.
func (l *Log) Serve(ctx context.Context, listener net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() }) // ends Accept, which tells
	defer stop()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return errors.Join(closeConn(conn), ignoreClosed(listener.Close()))
		}
		if err != nil {
			return errors.Join(fmt.Errorf("wait for a reader of the log: %w", err), ignoreClosed(listener.Close()))
		}
		l.feed(ctx, conn)
	}
}

// feed writes lines until the reader goes. What it was given last may be lost.
func (l *Log) feed(ctx context.Context, conn net.Conn) {
	gone := make(chan struct{})
	fed, done := context.WithCancel(context.WithoutCancel(ctx))
	var watch sync.WaitGroup
	watch.Go(func() {
		defer close(gone)
		_, _ = conn.Read(make([]byte, 1)) // a reader has nothing to say: this ends with it
	})
	watch.Go(func() { cut(ctx, fed, conn) })
	defer watch.Wait()
	defer conn.Close()
	defer done()
	for {
		select {
		case <-l.more:
		case <-gone:
			return
		case <-ctx.Done():
			// What was logged last is why the guest ends.
			_ = write(conn, l.take())
			return
		}
		if write(conn, l.take()) != nil {
			return
		}
	}
}

// cut closes the connection of a reader that has not taken everything lastLimit
// after the end of ctx, unless fed ends before.
func cut(ctx, fed context.Context, conn net.Conn) {
	select {
	case <-fed.Done():
		return
	case <-ctx.Done():
	}
	last := time.NewTimer(lastLimit)
	defer last.Stop()
	select {
	case <-fed.Done():
	case <-last.C:
		_ = conn.Close() // ends a write, which tells
	}
}

func write(conn net.Conn, b []byte) error {
	if err := conn.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return err
	}
	_, err := conn.Write(b)
	return err
}

func closeConn(c net.Conn) error {
	if c == nil {
		return nil
	}
	return c.Close()
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
