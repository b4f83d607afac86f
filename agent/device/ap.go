// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// AP waits for adjunct processor queues, "05.0039", which are crypto devices
// of s390x, and returns the node by which programs use all of them. Errors
// wrap ErrInvalid, ErrNotFound or ErrUnsuitable, or are the kernel's.
func (f *Finder) AP(ctx context.Context, queues []string) (Node, error) {
	if len(queues) == 0 {
		return Node{}, fmt.Errorf("no AP queue is named: %w", ErrInvalid)
	}
	for _, q := range queues {
		if !isQueue(q) {
			return Node{}, fmt.Errorf("AP queue %q: %w", q[:min(len(q), maxText)], ErrInvalid)
		}
	}
	if err := writeAttribute(filepath.Join(f.cfg.Sys, "bus/ap/scans"), "1"); err != nil {
		return Node{}, fmt.Errorf("look for AP queues: %w", err)
	}
	for _, q := range queues {
		dir := filepath.Join(f.cfg.Sys, "devices/ap", "card"+q[:2], q)
		_, err := f.wait(ctx, fmt.Sprintf("AP queue %q", q), func() (string, error) {
			_, err := os.Stat(dir)
			if errors.Is(err, fs.ErrNotExist) {
				return "", nil
			}
			return dir, err
		})
		if err != nil {
			return Node{}, err
		}
	}
	return f.node("z90crypt", unix.S_IFCHR)
}

// isQueue reports whether text is a card and a domain, "xx.xxxx".
func isQueue(text string) bool {
	return len(text) == 7 && text[2] == '.' && strings.Trim(text[:2]+text[3:], "0123456789abcdef") == ""
}
