// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxResolvConf bounds the pod's resolver configuration, in bytes.
const maxResolvConf = 64 << 10

// setDNS mounts the pod's resolver configuration over the guest's own, so that
// names resolve when images are pulled. Each entry is a complete line. It
// returns how to undo that. Without entries, or where the guest has no such
// file to mount on, nothing happens.
func (s *sandbox) setDNS(entries []string) (undo func(context.Context) error, err error) {
	nothing := func(context.Context) error { return nil }
	if len(entries) == 0 {
		return nothing, nil
	}
	text, err := resolvConf(entries)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(s.paths.ResolvConf)
	switch {
	case errors.Is(err, os.ErrNotExist):
		s.log.Warn("the guest has no resolver configuration to replace: names will not resolve", "path", s.paths.ResolvConf)
		return nothing, nil
	case err != nil:
		return nil, fmt.Errorf("look at resolver configuration: %w", err)
	case st.IsDir():
		return nil, fmt.Errorf("resolver configuration %q is a directory", s.paths.ResolvConf)
	}
	return s.mountResolvConf(text)
}

func (s *sandbox) mountResolvConf(text string) (func(context.Context) error, error) {
	if err := os.MkdirAll(s.paths.sandboxDir(), 0o755); err != nil {
		return nil, fmt.Errorf("make sandbox directory: %w", err)
	}
	file := filepath.Join(s.paths.sandboxDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return nil, fmt.Errorf("write resolver configuration: %w", err)
	}
	if err := unix.Mount(file, s.paths.ResolvConf, "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("mount %q on %q: %w", file, s.paths.ResolvConf, err)
	}
	return func(context.Context) error {
		err := unix.Unmount(s.paths.ResolvConf, unix.MNT_DETACH)
		if err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %q: %w", s.paths.ResolvConf, err)
		}
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove resolver configuration: %w", err)
		}
		return nil
	}, nil
}

// resolvConf joins the trimmed entries to a file.
func resolvConf(entries []string) (string, error) {
	var b strings.Builder
	for _, e := range entries {
		e = strings.TrimSpace(e)
		if strings.ContainsAny(e, "\x00\n\r") {
			return "", fmt.Errorf("DNS entry %q is more than one line: %w", e, ErrInvalid)
		}
		if b.Len()+len(e) >= maxResolvConf {
			return "", fmt.Errorf("more than %d bytes of DNS entries: %w", maxResolvConf, ErrInvalid)
		}
		b.WriteString(e)
		b.WriteByte('\n')
	}
	return b.String(), nil
}
