// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/mdlayher/vsock"

	"cocoon/internal/config"
)

// listenAgent opens the address at which the agent is served. A stale socket
// file is replaced; any other file in its place is an error.
func listenAgent(ctx context.Context, a config.Address) (net.Listener, error) {
	switch a.Network {
	case "vsock":
		l, err := vsock.ListenContextID(a.CID, a.Port, nil)
		if err != nil {
			return nil, fmt.Errorf("listen on vsock port %d: %w", a.Port, err)
		}
		return l, nil
	case "unix":
		if !strings.HasPrefix(a.Address, "@") {
			if err := prepareSocket(a.Address); err != nil {
				return nil, err
			}
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, a.Network, a.Address)
	if err != nil {
		return nil, fmt.Errorf("listen for the agent: %w", err)
	}
	return l, nil
}

func prepareSocket(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make the folder of socket %q: %w", path, err)
	}
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at socket %q: %w", path, err)
	case st.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("listen on %q: a file is in the way", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	return nil
}
