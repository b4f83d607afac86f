// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"fmt"
	"strings"

	"cocoon/internal/bounded"
)

// MaxCmdline is the longest kernel command line that is accepted, in bytes; the
// kernel's own limits are 2048 on x86 and 4096 on s390x.
const MaxCmdline = 4096

// Cmdline is a parsed kernel command line.
type Cmdline struct{ words []word }

type word struct {
	key, value string
	hasValue   bool
}

// ParseCmdline splits the text of /proc/cmdline. Words are separated by white
// space and are "key" or "key=value", where a value may hold further '='.
// Quotes have no meaning and are kept: the peers' agents read the line that
// way, and two readers of one measured line must not disagree.
func ParseCmdline(text string) (Cmdline, error) {
	if len(text) > MaxCmdline {
		return Cmdline{}, fmt.Errorf("kernel command line has %d bytes: %w", len(text), bounded.ErrTooLarge)
	}
	var c Cmdline
	for _, w := range strings.Fields(text) {
		key, value, ok := strings.Cut(w, "=")
		c.words = append(c.words, word{key, value, ok})
	}
	return c, nil
}

// Value returns the value of the last word "key=value", and whether there is one.
func (c Cmdline) Value(key string) (string, bool) {
	for i := len(c.words) - 1; i >= 0; i-- {
		if c.words[i].hasValue && c.words[i].key == key {
			return c.words[i].value, true
		}
	}
	return "", false
}

// Flag says whether the bare word key is there.
func (c Cmdline) Flag(key string) bool {
	for _, w := range c.words {
		if !w.hasValue && w.key == key {
			return true
		}
	}
	return false
}
