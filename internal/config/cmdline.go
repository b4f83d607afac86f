// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"

	"cocoon/internal/bounded"
)

// MaxCmdline is the most bytes of a kernel command line.
const MaxCmdline = 64 << 10

// Cmdline is a kernel command line, split into words. Meaning is given to the
// words only afterwards, so that their order never matters.
type Cmdline struct {
	words []word
}

type word struct {
	key, value string
	hasValue   bool
}

// ParseCmdline splits the text of /proc/cmdline at white space. Quotes are
// kept, as the kernel and the Kata agent keep them; a value may hold '='.
func ParseCmdline(text string) (Cmdline, error) {
	if len(text) > MaxCmdline {
		return Cmdline{}, fmt.Errorf("kernel command line of %d bytes: %w", len(text), bounded.ErrTooLarge)
	}
	var c Cmdline
	for f := range strings.FieldsSeq(text) {
		k, v, ok := strings.Cut(f, "=")
		c.words = append(c.words, word{key: k, value: v, hasValue: ok})
	}
	return c, nil
}

// Lookup returns the value of the last word key=value.
func (c Cmdline) Lookup(key string) (string, bool) {
	for i := len(c.words) - 1; i >= 0; i-- {
		if w := c.words[i]; w.key == key && w.hasValue {
			return w.value, true
		}
	}
	return "", false
}

// First returns the value of the first word key=value.
func (c Cmdline) First(key string) (string, bool) {
	for _, w := range c.words {
		if w.key == key && w.hasValue {
			return w.value, true
		}
	}
	return "", false
}

// Flag reports whether the bare word key occurs; key=value is not the flag.
func (c Cmdline) Flag(key string) bool {
	for _, w := range c.words {
		if w.key == key && !w.hasValue {
			return true
		}
	}
	return false
}
