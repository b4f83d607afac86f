// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// report shows progress while the story is told and the table at its end.
type report struct {
	out    io.Writer
	checks []check
	step   int
}

// check is one thing that was looked at.
type check struct {
	what, saw string
	ok        bool
}

// chapter announces a step, does it and says how long it took.
func (r *report) chapter(name string, do func() error) error {
	r.step++
	fmt.Fprintf(r.out, "\n[%2d] %s\n", r.step, name)
	start := time.Now()
	err := do()
	took := time.Since(start).Round(10 * time.Millisecond)
	if err != nil {
		fmt.Fprintf(r.out, "     failed after %v\n", took)
		r.checks = append(r.checks, check{what: name, saw: err.Error()})
		return fmt.Errorf("%s: %w", strings.ToLower(name[:1])+name[1:], err)
	}
	fmt.Fprintf(r.out, "     done in %v\n", took)
	return nil
}

// say prints a line of detail.
func (r *report) say(format string, args ...any) {
	fmt.Fprintf(r.out, "     "+format+"\n", args...)
}

// check records whether something held, and what was seen.
func (r *report) check(what string, ok bool, saw string) {
	mark := "ok  "
	if !ok {
		mark = "FAIL"
	}
	r.checks = append(r.checks, check{what, saw, ok})
	fmt.Fprintf(r.out, "     %s %s: %s\n", mark, what, oneLine(saw))
}

func (r *report) table() {
	fmt.Fprintf(r.out, "\n%-6s %-58s %s\n", "", "checked", "seen")
	for _, c := range r.checks {
		mark := "ok"
		if !c.ok {
			mark = "FAIL"
		}
		fmt.Fprintf(r.out, "%-6s %-58s %s\n", mark, c.what, oneLine(c.saw))
	}
}

// failed returns an error that counts the checks that did not hold.
func (r *report) failed() error {
	n := 0
	for _, c := range r.checks {
		if !c.ok {
			n++
		}
	}
	switch {
	case len(r.checks) == 0:
		return fmt.Errorf("nothing was checked")
	case n > 0:
		return fmt.Errorf("%d of %d checks failed", n, len(r.checks))
	}
	fmt.Fprintf(r.out, "\nall %d checks passed\n", len(r.checks))
	return nil
}

// maxSeen is how much of a line the table shows; the cause of an error stands
// at its end, so the middle is left out.
const maxSeen = 150

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxSeen {
		s = s[:maxSeen/3] + " … " + s[len(s)-maxSeen*2/3:]
	}
	return s
}
