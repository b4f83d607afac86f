// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// consoleWait bounds the wait for a terminal that libcontainer has already
// sent when it reports the process as created.
const consoleWait = 5 * time.Second

// stdio holds both sides of a process's standard streams while it is created.
type stdio struct {
	child   []*os.File // closed here once the process has them
	console *os.File   // socket on which the terminal arrives
	stdin   *os.File
	stdout  *os.File
	stderr  *os.File
}

// newStdio prepares pipes, or a socket for a terminal, and puts the process's
// side into lp.
func newStdio(lp *libcontainer.Process, terminal bool, pipeSize int) (_ *stdio, err error) {
	s := &stdio{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if terminal {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("create console socket: %w", err)
		}
		s.console = os.NewFile(uintptr(fds[0]), "console")
		lp.ConsoleSocket = os.NewFile(uintptr(fds[1]), "console-init")
		s.child = append(s.child, lp.ConsoleSocket)
		return s, nil
	}
	stdin, err := s.pipe(pipeSize, toProcess)
	if err != nil {
		return nil, err
	}
	stdout, err := s.pipe(pipeSize, fromProcess)
	if err != nil {
		return nil, err
	}
	stderr, err := s.pipe(pipeSize, fromProcess)
	if err != nil {
		return nil, err
	}
	lp.Stdin, s.stdin = stdin.child, stdin.parent
	lp.Stdout, s.stdout = stdout.child, stdout.parent
	lp.Stderr, s.stderr = stderr.child, stderr.parent
	return s, nil
}

type direction int

const (
	toProcess direction = iota
	fromProcess
)

type pipeEnds struct{ child, parent *os.File }

// pipe makes a pipe whose near end can be interrupted and whose far end is an
// ordinary blocking descriptor, which is what programs expect.
func (s *stdio) pipe(size int, dir direction) (pipeEnds, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return pipeEnds{}, fmt.Errorf("create pipe: %w", err)
	}
	near, far := fds[0], fds[1]
	if dir == toProcess {
		near, far = far, near
	}
	err := unix.SetNonblock(near, true)
	if err == nil && size > 0 {
		_, err = unix.FcntlInt(uintptr(near), unix.F_SETPIPE_SZ, size)
	}
	ends := pipeEnds{child: os.NewFile(uintptr(far), "pipe"), parent: os.NewFile(uintptr(near), "pipe")}
	s.child = append(s.child, ends.child)
	if err != nil {
		return pipeEnds{}, errors.Join(fmt.Errorf("prepare pipe of %d bytes: %w", size, err), ends.parent.Close())
	}
	return ends, nil
}

// attach turns the near ends into the streams of p, receiving the terminal if
// there is one, and drops the far ends.
func (s *stdio) attach(p *Process) error {
	defer s.close()
	if s.console == nil {
		p.stdin = newInput(s.stdin)
		p.stdout, p.stderr = newOutput(s.stdout), newOutput(s.stderr)
		s.stdin, s.stdout, s.stderr = nil, nil, nil
		return nil
	}
	master, err := receiveFile(s.console)
	if err != nil {
		return fmt.Errorf("receive terminal: %w", err)
	}
	p.tty = master
	p.stdin, p.stdout = newInput(master), newOutput(master)
	return nil
}

// close closes what attach did not take. It may be called more than once.
func (s *stdio) close() {
	for _, f := range append(s.child, s.console, s.stdin, s.stdout, s.stderr) {
		if f != nil {
			_ = f.Close() // a second close of the same file is harmless
		}
	}
	s.child = nil
}

// receiveFile takes exactly one descriptor from a socket and makes it
// interruptible.
func receiveFile(sock *os.File) (*os.File, error) {
	fd := int(sock.Fd())
	tv := unix.NsecToTimeval(consoleWait.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return nil, err
	}
	name := make([]byte, unix.PathMax)
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(fd, name, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if n == 0 || oobn == 0 {
		return nil, errors.New("no descriptor received")
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, err
	}
	if len(msgs) != 1 {
		return nil, fmt.Errorf("%d control messages received", len(msgs))
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return nil, err
	}
	if len(fds) != 1 {
		return nil, fmt.Errorf("%d descriptors received", len(fds))
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, errors.Join(err, unix.Close(fds[0]))
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}
