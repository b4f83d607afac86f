// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package console gives a debugger a shell in the guest, one for each
// connection.
//
// Trust boundary. Whoever connects is root in the guest, past the policy. Only
// a profile that protects nothing serves it; package main decides that.
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxShells bounds the shells that run at a time.
const maxShells = 4

// ErrNoShell is returned when the image has no shell to give.
var ErrNoShell = errors.New("the image has no shell")

// shells are looked for in this order, as upstream does.
func shells() []string {
	return []string{"/run/kata-extensions/devkit/bin/devkit-sh", "/bin/bash", "/bin/sh"}
}

// Serve starts a shell for every connection until ctx ends, and waits for all
// of them. It closes the listener.
func Serve(ctx context.Context, l net.Listener, log *slog.Logger) error {
	var running sync.WaitGroup
	defer running.Wait()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // ends Accept, which tells
	defer stop()
	free := make(chan struct{}, maxShells)
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("debug console: %w", err)
		}
		select {
		case free <- struct{}{}:
		default:
			log.Warn("too many debug consoles")
			if err := conn.Close(); err != nil {
				log.Warn("turn a debugger away", "error", err)
			}
			continue
		}
		running.Go(func() {
			defer func() { <-free }()
			if err := run(ctx, conn); err != nil {
				log.Warn("debug console", "error", err)
			}
		})
	}
}

// run joins a connection and a shell until one of them ends.
func run(ctx context.Context, conn net.Conn) (err error) {
	defer func() { err = errors.Join(err, conn.Close()) }()
	shell, err := findShell()
	if err != nil {
		return err
	}
	master, slave, err := openPTY()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, shell, "-i")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.Env = []string{"PATH=/sbin:/bin:/usr/sbin:/usr/bin", "TERM=linux", "HOME=/root"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	err = errors.Join(err, slave.Close())
	if err != nil {
		return errors.Join(fmt.Errorf("start %q: %w", shell, err), master.Close())
	}
	var pumps sync.WaitGroup
	pumps.Go(func() {
		_, _ = io.Copy(master, conn) // ends when the debugger goes
		cancel()
	})
	pumps.Go(func() {
		_, _ = io.Copy(conn, master) // ends with EIO when the shell goes
		// The other copy waits for a debugger who waits for a shell.
		_ = conn.Close()
	})
	_ = cmd.Wait() // how a shell ends is the debugger's business
	err = errors.Join(err, master.Close())
	pumps.Wait()
	return err
}

func findShell() (string, error) {
	for _, s := range shells() {
		if st, err := os.Stat(s); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return s, nil
		}
	}
	return "", ErrNoShell
}

// openPTY opens a new pair of pseudo terminals.
func openPTY() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	fd := int(master.Fd())
	if err = unix.SetNonblock(fd, true); err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	var number int
	if err == nil {
		number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open a terminal: %w", err), master.Close())
	}
	return master, slave, nil
}
