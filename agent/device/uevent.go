// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package device

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// kernelGroup is the multicast group of events that the kernel sends; udev
// sends its own to another.
const kernelGroup = 1

// maxEvent bounds one event, in bytes; the kernel's own bound is 2 KiB.
const maxEvent = 8 << 10

// kernelWatch listens to the kernel's device events.
type kernelWatch struct {
	socket  *os.File
	changed chan struct{}
	reader  sync.WaitGroup
}

// watchKernel begins to listen.
func watchKernel() (Watcher, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("open socket for device events: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		return nil, errors.Join(fmt.Errorf("listen to device events: %w", err), unix.Close(fd))
	}
	w := &kernelWatch{socket: os.NewFile(uintptr(fd), "uevent"), changed: make(chan struct{}, 1)}
	conn, err := w.socket.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, w.socket.Close())
	}
	w.reader.Go(func() { w.read(conn) })
	return w, nil
}

// Changed implements Watcher.
func (w *kernelWatch) Changed() <-chan struct{} { return w.changed }

// Close implements Watcher.
func (w *kernelWatch) Close() error {
	err := w.socket.Close()
	w.reader.Wait()
	return err
}

// read announces events until the socket is closed.
func (w *kernelWatch) read(conn syscall.RawConn) {
	buf := make([]byte, maxEvent)
	for {
		var n int
		var from unix.Sockaddr
		var got error
		err := conn.Read(func(fd uintptr) bool {
			n, from, got = unix.Recvfrom(int(fd), buf, 0)
			return !errors.Is(got, unix.EAGAIN)
		})
		if err != nil {
			return // closed
		}
		// ENOBUFS says that events were lost: something has changed.
		if got == nil && !(fromKernel(from) && isAddition(buf[:n])) {
			continue
		}
		select {
		case w.changed <- struct{}{}:
		default: // one is waiting to be seen already
		}
	}
}

// fromKernel reports whether a message has the kernel as its sender. Any
// process of the guest may send to the group otherwise.
func fromKernel(from unix.Sockaddr) bool {
	a, ok := from.(*unix.SockaddrNetlink)
	return ok && a.Pid == 0
}

// isAddition reports whether an event says that a device was added or bound to
// its driver. It begins with "action@devpath" and a NUL byte.
func isAddition(event []byte) bool {
	head, _, ended := bytes.Cut(event, []byte{0})
	action, path, ok := bytes.Cut(head, []byte("@"))
	if !ended || !ok || len(path) == 0 || path[0] != '/' {
		return false
	}
	switch string(action) {
	case "add", "bind", "change", "online":
		return true
	}
	return false
}
