// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
)

// DefaultStateDir is where libcontainer keeps its state files. It must not lie
// below /run/kata-containers, which CreateSandbox empties.
const DefaultStateDir = "/run/cocoon/containers"

// maxIDLength is what a directory name can hold.
const maxIDLength = 255

// Config tells a Runtime where it keeps state.
type Config struct {
	// StateDir is the directory of the state files, DefaultStateDir if empty.
	// A tmpfs is best. On a file system that also holds the running executable
	// it must not lie below the executable's directory: libcontainer then copies
	// the executable into memory for every process it starts.
	StateDir string
	// PipeSize is the capacity in bytes of the standard stream pipes; 0 leaves
	// the kernel's default.
	PipeSize int
	// Log receives what is not an error of a call. Nil discards.
	Log *slog.Logger
}

// Runtime creates containers. It is safe for concurrent use and holds no lock
// of its own: containers do not know of each other.
type Runtime struct {
	stateDir string
	pipeSize int
	log      *slog.Logger
	host     hostFacts
}

// New checks the host and prepares the state directory.
func New(cfg Config) (*Runtime, error) {
	if cfg.StateDir == "" {
		cfg.StateDir = DefaultStateDir
	}
	if !filepath.IsAbs(cfg.StateDir) {
		return nil, fmt.Errorf("new runtime: state directory %q is not absolute", cfg.StateDir)
	}
	if cfg.PipeSize < 0 {
		return nil, fmt.Errorf("new runtime: pipe size %d is negative", cfg.PipeSize)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("new runtime: %w", err)
	}
	if slow, err := executableAbove(cfg.StateDir); err != nil {
		return nil, fmt.Errorf("new runtime: %w", err)
	} else if slow {
		cfg.Log.Warn("the state directory lies below the executable's: each process start copies the executable", "directory", cfg.StateDir)
	}
	host, err := readHostFacts()
	if err != nil {
		return nil, fmt.Errorf("new runtime: %w", err)
	}
	if !host.cgroupV2 {
		if err := settleBlkio(); err != nil {
			return nil, fmt.Errorf("new runtime: %w", err)
		}
	}
	if host.noPivotRoot {
		cfg.Log.Warn("the root is the initial rootfs: containers get a moved mount instead of pivot_root")
	}
	return &Runtime{stateDir: cfg.StateDir, pipeSize: cfg.PipeSize, log: cfg.Log, host: host}, nil
}

var validID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

var validExecID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// checkExecID is laxer than checkID: an exec id never becomes a path, and
// clients choose ids of one character.
func checkExecID(id string) error {
	if len(id) > maxIDLength || !validExecID.MatchString(id) {
		return fmt.Errorf("%w: exec id %q", ErrInvalidID, id[:min(len(id), maxIDLength)])
	}
	return nil
}

func checkID(id string) error {
	if len(id) > maxIDLength || !validID.MatchString(id) {
		return fmt.Errorf("%w: %q", ErrInvalidID, id[:min(len(id), maxIDLength)])
	}
	return nil
}

// removed tells whether path is gone.
func removed(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, os.ErrNotExist)
}
