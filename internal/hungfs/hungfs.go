// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package hungfs mounts a file system whose server can fall silent, as that of
// a host can whose share a guest has mounted. It is for tests: whoever looks at
// such a file system stands still until the test ends.
package hungfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Numbers of include/uapi/linux/fuse.h.
const (
	opForget      = 2
	opGetAttr     = 3
	opInit        = 26
	opReadDir     = 28
	opInterrupt   = 36
	opBatchForget = 42

	headerIn  = 40
	headerOut = 16
	maxBuffer = 1 << 17
)

// FS is an empty directory that a server of this process answers for.
type FS struct {
	dev    int
	stop   [2]int // a pipe whose writing end is closed to end the server
	silent atomic.Bool
	asked  chan struct{}
}

// Mount mounts an empty file system on dir until the end of the test.
func Mount(t testing.TB, dir string) *FS {
	t.Helper()
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no FUSE: %v", err)
	}
	f := &FS{dev: dev, asked: make(chan struct{})}
	err = unix.Pipe2(f.stop[:], unix.O_CLOEXEC)
	if err == nil {
		err = unix.Mount("hungfs", dir, "fuse", unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", dev))
	}
	if err != nil {
		t.Fatalf("mount a silent file system: %v", err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { f.serve(t) })
	t.Cleanup(func() {
		err := unix.Close(f.stop[1])
		serving.Wait()
		// With the device the kernel ends all requests.
		err = errors.Join(err, unix.Close(dev), unix.Close(f.stop[0]), unix.Unmount(dir, unix.MNT_DETACH|unix.MNT_FORCE))
		if err != nil {
			t.Errorf("unmount the silent file system: %v", err)
		}
	})
	return f
}

// Silence has the server answer nothing any more.
func (f *FS) Silence() { f.silent.Store(true) }

// Asked is closed when the first request stays without an answer. What can be
// listed without asking is: a look at the directory itself is always asked for.
func (f *FS) Asked() <-chan struct{} { return f.asked }

// serve answers until it is stopped. Once it is silent it does not even read a
// request: the kernel then lets a process go that is killed.
func (f *FS) serve(t testing.TB) {
	buf := make([]byte, maxBuffer)
	fds := []unix.PollFd{{Fd: int32(f.dev), Events: unix.POLLIN}, {Fd: int32(f.stop[0])}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil, fds[1].Revents != 0:
			return
		case f.silent.Load():
			close(f.asked)
			fds[0].Fd = -1 // wait for the end only
			f.silent.Store(false)
			continue
		}
		n, err := unix.Read(f.dev, buf)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOENT) {
			continue // a request that was taken back
		}
		if err != nil || n < headerIn {
			t.Errorf("read a request: %d bytes (%v)", n, err)
			return
		}
		op, id := binary.NativeEndian.Uint32(buf[4:]), binary.NativeEndian.Uint64(buf[8:])
		if op == opForget || op == opInterrupt || op == opBatchForget {
			continue
		}
		if _, err := unix.Write(f.dev, answer(op, id)); err != nil && !errors.Is(err, unix.ENOENT) {
			t.Errorf("answer request %d: %v", op, err)
			return
		}
	}
}

// answer is that of an empty directory; what it does not need it does not know.
// That includes the opening of directories: the kernel then tells of no closing
// either, which would come at any time and wait for no answer.
func answer(op uint32, id uint64) []byte {
	order := binary.NativeEndian
	var body []byte
	var errno int32
	switch op {
	case opInit:
		body = make([]byte, 64)
		order.PutUint32(body[0:], 7)
		order.PutUint32(body[4:], 31)
		order.PutUint32(body[20:], 4096) // longest write
	case opGetAttr:
		body = make([]byte, 104)
		order.PutUint64(body[16:], 1)                     // inode
		order.PutUint32(body[16+60:], unix.S_IFDIR|0o755) // mode
		order.PutUint32(body[16+64:], 2)                  // links
	case opReadDir:
	default:
		errno = -int32(unix.ENOSYS)
	}
	head := make([]byte, headerOut, headerOut+len(body))
	order.PutUint32(head[0:], uint32(headerOut+len(body)))
	order.PutUint32(head[4:], uint32(errno))
	order.PutUint64(head[8:], id)
	return append(head, body...)
}
