// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mdlayher/vsock"

	"cocoon/internal/logport"
)

// checkLogStream reads the log as a shim does: from its vsock port, after the
// first lines were written, and until the guest ends.
func checkLogStream() (err error) {
	const port = 1025
	listener, err := vsock.Listen(port, nil)
	if err != nil {
		return err
	}
	log := logport.New()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- log.Serve(ctx, listener) }()
	defer func() {
		cancel()
		err = errors.Join(err, <-served)
	}()
	if _, err := io.WriteString(log, "before\n"); err != nil {
		return err
	}
	conn, err := vsock.Dial(vsock.Local, port, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	lines := bufio.NewScanner(conn)
	for _, want := range []string{"before", "after"} {
		if !lines.Scan() || lines.Text() != want {
			return fmt.Errorf("got %q, want %q: %w", lines.Text(), want, errors.Join(errUnexpected, lines.Err()))
		}
		if _, err := io.WriteString(log, "after\n"); err != nil {
			return err
		}
	}
	// A reader that takes nothing any more must not hold up whoever logs.
	began := time.Now()
	line := make([]byte, 1024)
	for range 4096 {
		if _, err := log.Write(line); err != nil {
			return err
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		return fmt.Errorf("logging 4 MiB took %v: %w", took, errUnexpected)
	}
	return nil
}
