// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// DefaultSocket is where clients look for the attestation agent.
const DefaultSocket = "unix:///run/confidential-containers/attestation-agent/attestation-agent.sock"

const (
	socketMode = 0o600
	parentMode = 0o755
	// maxSocketPath is what fits in a sockaddr_un with its final zero. A longer
	// path could be moved to, but nobody could connect to it.
	maxSocketPath = 107
)

// Listen opens a unix socket at addr, which must begin with unix:// and hold an
// absolute path. Missing parent directories are made and a stale socket is
// replaced; anything else at the path is an error. Only the owner can connect,
// from the first moment on: the socket gets its mode in a private directory and
// is then moved into place.
func Listen(addr string) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, "unix://")
	if !ok || !filepath.IsAbs(path) {
		return nil, fmt.Errorf("listen on %q: not unix:// and an absolute path", addr)
	}
	path = filepath.Clean(path)
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("listen on %q: path is longer than %d bytes", addr, maxSocketPath)
	}
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", addr, err)
	}
	return l, nil
}

func listen(path string) (l net.Listener, err error) {
	if err := os.MkdirAll(filepath.Dir(path), parentMode); err != nil {
		return nil, err
	}
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("%q exists and is not a socket", path)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	private, err := os.MkdirTemp(filepath.Dir(path), ".aa-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(private)) }()
	u, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(private, "s"), Net: "unix"})
	if err != nil {
		return nil, err
	}
	u.SetUnlinkOnClose(false)
	if err := moveInto(path, filepath.Join(private, "s")); err != nil {
		return nil, errors.Join(err, u.Close())
	}
	return &socket{UnixListener: u, path: path}, nil
}

func moveInto(path, from string) error {
	if err := os.Chmod(from, socketMode); err != nil {
		return err
	}
	return os.Rename(from, path)
}

// socket is a unix listener that was moved after it was bound.
type socket struct {
	*net.UnixListener
	path string
}

// Addr returns the path at which the socket is reached.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

// Close stops listening and removes the socket.
func (s *socket) Close() error {
	if err := s.UnixListener.Close(); err != nil {
		return err
	}
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
