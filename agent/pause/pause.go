// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pause is the program of a pod's sandbox container: it holds the
// pod's namespaces open and does nothing else.
//
// The agent puts the running binary as /pause into an otherwise empty root and
// starts it with that argv[0]. The program takes no input from anybody; it
// runs without capabilities as an unprivileged user.
package pause

import (
	"context"
	"errors"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// Path is the program's path in the container and its argv[0].
const Path = "/pause"

// Wanted reports whether a process with these arguments has to be the pause
// program. main asks before it sets anything up.
func Wanted(args []string) bool { return len(args) > 0 && args[0] == Path }

// Run waits for SIGTERM or SIGINT, or until ctx ends. When the pod shares its
// process ids, this process is the first of them, and reaps the orphans of
// all containers meanwhile.
func Run(ctx context.Context) {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	defer signal.Stop(children)
	for {
		reap()
		select {
		case <-ctx.Done():
			return
		case <-children:
		}
	}
}

// reap collects every child that has ended. One signal may stand for several.
func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}
