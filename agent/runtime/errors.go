// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that callers branch on. Two texts are matched by kata shims and must
// stay as they are: "init process missing" and "invalid exec id".
var (
	// ErrInitGone means that the container's first process has ended and its
	// record was dropped, or that it ended before the operation.
	ErrInitGone = errors.New("init process missing")
	// ErrNoProcess means that no process with this exec id is known.
	ErrNoProcess = errors.New("invalid exec id")
	// ErrInvalidID means that a container or exec id is malformed.
	ErrInvalidID = errors.New("invalid id")
	// ErrExists means that the id is in use.
	ErrExists = errors.New("already exists")
	// ErrNoTTY means that a terminal operation met a process without one.
	ErrNoTTY = errors.New("no tty")
	// ErrNoStdin means that standard input was closed before.
	ErrNoStdin = errors.New("Cannot get writer") //nolint:staticcheck // matched by clients
	// ErrPaused means that the operation needs a container that is not paused.
	ErrPaused = errors.New("container paused")
	// ErrNotPaused means that the operation needs a paused container.
	ErrNotPaused = errors.New("container not paused")
	// ErrStarted means that the container was started before.
	ErrStarted = errors.New("container already started")
	// ErrDeleted means that the container is being deleted or is gone.
	ErrDeleted = errors.New("container deleted")
	// ErrNoCapabilities means that a process without capability sets was to run
	// in a container that has none either.
	ErrNoCapabilities = errors.New("missing process capabilities")
	// ErrNotFound means that the program to run does not exist in the container.
	ErrNotFound = errors.New("was not found")
	// ErrRefused means that the specification asks for something that this
	// runtime does not do.
	ErrRefused = errors.New("specification refused")
)

// explainStart rewrites libcontainer's words for a missing program into those
// that users and tests of the field look for: "the file <name> was not found".
// Other errors pass unchanged.
func explainStart(err error, args []string) error {
	if err == nil || len(args) == 0 {
		return err
	}
	lookup := fmt.Sprintf("exec: %q: ", args[0])
	text := err.Error()
	i := strings.Index(text, lookup)
	if i < 0 {
		return err
	}
	reason := text[i+len(lookup):]
	if !strings.Contains(reason, "executable file not found in $PATH") && !strings.Contains(reason, "no such file or directory") {
		return err
	}
	return fmt.Errorf("the file %s %w: %w", args[0], ErrNotFound, err)
}
