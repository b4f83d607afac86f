// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"cocoon/internal/bounded"
)

const line = "quiet agent.log=debug\ta=1 a=2 flag= x=y=z q=\"one two\" agent.debug_console\n"

func TestTheCommandLineIsReadAsThePeersReadIt(t *testing.T) {
	t.Parallel()
	l, err := Parse(line)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"agent.log": "debug", "a": "2", "flag": "", "x": "y=z", "q": `"one`} {
		if got, ok := l.Value(key); !ok || got != want {
			t.Errorf("%s is %q, %t; want %q", key, got, ok, want)
		}
	}
	for key, want := range map[string]bool{"quiet": true, "agent.debug_console": true, "flag": false, "a": false, `two"`: true, "QUIET": false} {
		if got := l.Flag(key); got != want {
			t.Errorf("flag %q is %t", key, got)
		}
	}
	if got := l.All("a"); !slices.Equal(got, []string{"1", "2"}) || len(l.All("quiet")) != 0 {
		t.Errorf("all a are %q", got)
	}
	if got, ok := l.First("a"); !ok || got != "1" {
		t.Errorf("the first a is %q, %t", got, ok)
	}
}

func TestAWordThatIsNotThereHasNoValue(t *testing.T) {
	t.Parallel()
	l, err := Parse(line)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"quiet", "b", "", "A", "two"} {
		if v, ok := l.Value(key); ok || v != "" {
			t.Errorf("%q has value %q", key, v)
		}
		if v, ok := l.First(key); ok || v != "" {
			t.Errorf("%q has first value %q", key, v)
		}
	}
	if (Line{}).Flag("quiet") {
		t.Error("an empty line has a flag")
	}
}

func TestALineAboveTheLimitIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := Parse(strings.Repeat("a", Max)); err != nil {
		t.Errorf("a line of the greatest length is refused: %v", err)
	}
	if l, err := Parse(strings.Repeat("a", Max+1)); !errors.Is(err, bounded.ErrTooLarge) || l.words != nil {
		t.Errorf("got %v, %v; want ErrTooLarge", l, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("console=ttyS0 quiet ip=10.0.2.15::10.0.2.2:255.255.255.0 agent.log=debug")
	f.Add("a=\"b c\" = == x= \x00\xff")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := Parse(text)
		if (err != nil) != (len(text) > Max) {
			t.Fatalf("%d bytes: %v", len(text), err)
		}
		for _, w := range l.words {
			same := func(o word) bool { return o.hasValue && o.key == w.key }
			want := slices.ContainsFunc(l.words, same)
			last, ok := l.Value(w.key)
			first, okFirst := l.First(w.key)
			if ok != want || okFirst != want {
				t.Errorf("word %+v has value %t, first value %t", w, ok, okFirst)
			}
			if want && (first != l.words[slices.IndexFunc(l.words, same)].value || !slices.ContainsFunc(l.words, func(o word) bool { return same(o) && o.value == last })) {
				t.Errorf("word %+v has values %q and %q", w, first, last)
			}
			if !w.hasValue && !l.Flag(w.key) {
				t.Errorf("word %+v is no flag", w)
			}
		}
	})
}
