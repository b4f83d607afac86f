// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// broker is a trustee process and the means to administer it, all through its
// command line, as an operator would.
type broker struct {
	bin, dir string
	addr     string // host:port it listens on
	cmd      *exec.Cmd
	ended    chan error
}

// guestHost is the address by which a QEMU guest reaches this machine's
// loopback through user networking.
const guestHost = "10.0.2.2"

// startBroker initialises a trustee in dir and serves it until stop.
func startBroker(ctx context.Context, bin, dir string) (*broker, error) {
	b := &broker{bin: bin, dir: dir, ended: make(chan error, 1)}
	if _, err := b.trustee(ctx, nil, "init", dir, "--host", guestHost, "--host", "127.0.0.1", "--host", "localhost"); err != nil {
		return nil, err
	}
	// Not bound to ctx: it ends by stop, in order, also after Ctrl-C.
	b.cmd = exec.CommandContext(context.WithoutCancel(ctx), bin, "serve", "--dir", dir, "--listen", "127.0.0.1:0", "--allow-sample")
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(filepath.Dir(dir), "trustee.log"))
	if err != nil {
		return nil, err
	}
	b.cmd.Stderr = log
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := b.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start trustee: %w", err)
	}
	lines := make(chan string, 1)
	go func() {
		s := bufio.NewScanner(out)
		if s.Scan() {
			lines <- s.Text()
		}
		close(lines)
		_, copyErr := io.Copy(log, out)
		b.ended <- errors.Join(copyErr, b.cmd.Wait(), log.Close())
	}()
	if b.addr, err = listenAddress(ctx, lines); err != nil {
		return nil, errors.Join(err, b.stop())
	}
	return b, nil
}

// listenAddress finds host:port in the first line that trustee prints.
func listenAddress(ctx context.Context, lines <-chan string) (string, error) {
	select {
	case line := <-lines:
		for f := range strings.FieldsSeq(line) {
			f = strings.TrimSuffix(strings.TrimPrefix(f, "https://"), "/")
			if _, port, err := net.SplitHostPort(f); err == nil && port != "0" {
				return f, nil
			}
		}
		return "", fmt.Errorf("trustee's first line %q names no address", line)
	case <-time.After(20 * time.Second):
		return "", errors.New("trustee did not listen within 20 s")
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// admin runs a trustee subcommand against the running broker, with input on
// its standard input.
func (b *broker) admin(ctx context.Context, input []byte, args ...string) ([]byte, error) {
	args = append(args, "--url", "https://"+b.addr, "--ca", filepath.Join(b.dir, "ca.crt"), "--admin-key", filepath.Join(b.dir, "admin.key"))
	return b.trustee(ctx, input, args...)
}

func (b *broker) trustee(ctx context.Context, input []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, b.bin, args...)
	cmd.Stdin = strings.NewReader(string(input))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("trustee %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

func (b *broker) port() string {
	_, port, err := net.SplitHostPort(b.addr)
	if err != nil {
		return ""
	}
	return port
}

// stop ends trustee as Ctrl-C would and waits for it.
func (b *broker) stop() error {
	if err := b.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop trustee: %w", err)
	}
	select {
	case err := <-b.ended:
		return err
	case <-time.After(10 * time.Second):
		return errors.Join(errors.New("trustee did not end within 10 s"), b.cmd.Process.Kill(), <-b.ended)
	}
}
