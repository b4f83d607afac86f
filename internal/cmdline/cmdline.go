// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cmdline splits the kernel command line into words.
//
// The VMM writes the line; the launch measurement covers it where a machine is
// booted directly. The package gives no word a meaning and says nothing about
// trust: both are for the callers, PID 1 and the configuration of the guest
// role, which read the line with this one parser so that they cannot disagree
// about it.
package cmdline

import (
	"fmt"
	"strings"

	"cocoon/internal/bounded"
)

// Max is the longest line that is accepted, in bytes; the kernel's own limits
// are 2048 on x86 and 4096 on s390x.
const Max = 4096

// Line is a parsed command line. The zero value has no words.
type Line struct{ words []word }

type word struct {
	key, value string
	hasValue   bool
}

// Parse splits the text of /proc/cmdline. Words are separated by white space
// and are "key" or "key=value", where a value may hold further '='. Quotes have
// no meaning and are kept, as the peers' agents keep them. A text above Max is
// bounded.ErrTooLarge.
func Parse(text string) (Line, error) {
	if len(text) > Max {
		return Line{}, fmt.Errorf("kernel command line has %d bytes: %w", len(text), bounded.ErrTooLarge)
	}
	var l Line
	for w := range strings.FieldsSeq(text) {
		key, value, ok := strings.Cut(w, "=")
		l.words = append(l.words, word{key, value, ok})
	}
	return l, nil
}

// Value returns the value of the last word "key=value", and whether there is
// one.
func (l Line) Value(key string) (string, bool) {
	for i := len(l.words) - 1; i >= 0; i-- {
		if w := l.words[i]; w.hasValue && w.key == key {
			return w.value, true
		}
	}
	return "", false
}

// All returns the values of every word "key=value", in order.
func (l Line) All(key string) []string {
	var values []string
	for _, w := range l.words {
		if w.hasValue && w.key == key {
			values = append(values, w.value)
		}
	}
	return values
}

// First returns the value of the first word "key=value", and whether there is
// one.
func (l Line) First(key string) (string, bool) {
	for _, w := range l.words {
		if w.hasValue && w.key == key {
			return w.value, true
		}
	}
	return "", false
}

// Flag says whether the bare word key is there; "key=value" is not the flag.
func (l Line) Flag(key string) bool {
	for _, w := range l.words {
		if !w.hasValue && w.key == key {
			return true
		}
	}
	return false
}
