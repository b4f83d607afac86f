// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// drainTime is how long output of processes that outlive the main process of a
// record, and still hold its pipe, is waited for.
const drainTime = 500 * time.Millisecond

// maxRead bounds the buffer of one read, whatever the caller asks for.
const maxRead = 1 << 20

// past is a deadline that makes blocked I/O return at once.
var past = time.Unix(1, 0)

// gate serialises users of a file and, unlike a mutex, can be waited for with
// a context.
type gate chan struct{}

func newGate() gate { return make(gate, 1) }

func (g gate) enter(ctx context.Context) error {
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g gate) leave() { <-g }

// output is the reading side of a pipe or of a terminal.
type output struct {
	file *os.File
	gate gate // held by the one reader of file

	mu       sync.Mutex
	deadline time.Time // when to stop waiting; zero while the process lives
	released bool
	idle     bool // no reader holds file

	// Guarded by gate.
	cut  bool // the deadline passed: only left bytes are still delivered
	left int
}

func newOutput(f *os.File) *output { return &output{file: f, gate: newGate(), idle: true} }

// read blocks until there is at least one byte and returns at most n bytes.
// No bytes and no error mean the end. Several readers take turns.
func (o *output) read(ctx context.Context, n int) ([]byte, error) {
	if n <= 0 {
		return nil, fmt.Errorf("read output: length %d", n)
	}
	if err := o.gate.enter(ctx); err != nil {
		return nil, err
	}
	defer o.gate.leave()
	if !o.begin() {
		return nil, nil
	}
	defer o.end()
	buf := make([]byte, min(n, maxRead))
	for {
		if o.cut {
			return o.rest(buf)
		}
		got, err := o.wait(ctx, buf)
		switch {
		case got > 0:
			return buf[:got], nil
		case err == nil, isEnd(err):
			return nil, nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return nil, fmt.Errorf("read output: %w", err)
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
		o.cutIfLate()
	}
}

// wait reads once; the end of ctx interrupts it.
func (o *output) wait(ctx context.Context, buf []byte) (int, error) {
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		o.interrupt()
	})
	n, err := o.file.Read(buf)
	if !stop() {
		<-woken
		o.restore()
	}
	return max(n, 0), err
}

func (o *output) interrupt() {
	o.mu.Lock()
	defer o.mu.Unlock()
	_ = o.file.SetReadDeadline(past) // fails only on a closed file, which wakes the reader too
}

func (o *output) restore() {
	o.mu.Lock()
	defer o.mu.Unlock()
	_ = o.file.SetReadDeadline(o.deadline) // as above
}

// finish starts the drain time. It is called once, when the process has ended.
func (o *output) finish() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.deadline = time.Now().Add(drainTime)
	_ = o.file.SetReadDeadline(o.deadline) // as above
}

// cutIfLate ends the waiting once the deadline has passed. What is in the
// buffer at that moment is still delivered, so that a late reader loses
// nothing; what comes later is not, so that an endless writer cannot keep the
// stream open.
func (o *output) cutIfLate() {
	o.mu.Lock()
	late := !o.deadline.IsZero() && !time.Now().Before(o.deadline)
	o.mu.Unlock()
	if !late {
		return
	}
	o.cut = true
	_ = o.control(func(fd int) error {
		n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
		if err == nil {
			o.left = n
		}
		return err
	})
}

// rest delivers what cutIfLate found.
func (o *output) rest(buf []byte) ([]byte, error) {
	if o.left <= 0 {
		return nil, nil
	}
	buf = buf[:min(len(buf), o.left)]
	var n int
	err := o.control(func(fd int) (err error) {
		n, err = unix.Read(fd, buf)
		return err
	})
	if n = max(n, 0); err != nil {
		n = 0 // the stream is over either way; what it held is lost
	}
	if o.left -= n; n == 0 {
		o.left = 0
		buf = nil
	}
	return buf[:n], nil
}

// control runs f on the descriptor without regard to deadlines.
func (o *output) control(f func(fd int) error) error {
	raw, err := o.file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// isEnd knows the ways in which a stream ends: the last writer of a pipe
// closed it, the last holder of a terminal closed it (EIO), or the record was
// dropped.
func isEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, unix.EIO) || errors.Is(err, os.ErrClosed)
}

func (o *output) begin() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.idle = false
	return !o.released
}

func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.idle = true
	if o.released {
		_ = o.file.Close() // nothing was written to it
	}
}

// release closes the file, after the reader that is at it now.
func (o *output) release() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.released {
		return
	}
	o.released = true
	if o.idle {
		_ = o.file.Close() // nothing was written to it
	}
}

// input is the writing side of a pipe or of a terminal.
type input struct {
	gate gate // held by the one writer

	mu   sync.Mutex
	file *os.File // nil once closed
}

func newInput(f *os.File) *input { return &input{file: f, gate: newGate()} }

// write writes all of data; the end of ctx interrupts it.
func (i *input) write(ctx context.Context, data []byte) (int, error) {
	if err := i.gate.enter(ctx); err != nil {
		return 0, err
	}
	defer i.gate.leave()
	i.mu.Lock()
	f := i.file
	i.mu.Unlock()
	if f == nil {
		return 0, ErrNoStdin
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_ = f.SetWriteDeadline(past) // fails only on a closed file, which wakes the writer too
	})
	n, err := f.Write(data)
	if !stop() {
		<-woken
		_ = f.SetWriteDeadline(time.Time{}) // as above
	}
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, os.ErrClosed):
		return n, ErrNoStdin
	case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
		return n, ctx.Err()
	}
	return n, fmt.Errorf("write stdin: %w", err)
}

// close closes the file and wakes a blocked writer. Repeating it is harmless.
func (i *input) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.file != nil {
		_ = i.file.Close() // a pipe has nothing to flush
		i.file = nil
	}
}
