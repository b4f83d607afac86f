// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func TestEveryTargetIsFound(t *testing.T) {
	t.Parallel()
	got, err := find(fstest.MapFS{
		"b/x_test.go":          {Data: []byte("package b\nfunc FuzzTwo(f *testing.F) {}\nfunc FuzzOne(f *testing.F) {}\n")},
		"a_test.go":            {Data: []byte("package a\nfunc FuzzRoot(f *testing.F) {}\n// func FuzzComment(\n")},
		"a.go":                 {Data: []byte("func FuzzNoTest(")},
		"testdata/x_test.go":   {Data: []byte("func FuzzData(")},
		".git/hooks/x_test.go": {Data: []byte("func FuzzHidden(")},
		"out/x_test.go":        {Data: []byte("func FuzzBuilt(")},
	})
	want := []target{{"./.", "FuzzRoot"}, {"./b", "FuzzOne"}, {"./b", "FuzzTwo"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}

func TestOnlyAFailureWithoutInputIsForgiven(t *testing.T) {
	t.Parallel()
	for log, want := range map[string]bool{
		"--- FAIL: FuzzX\n    context deadline exceeded\nFAIL":                                          true,
		"--- FAIL: FuzzX\n    context deadline exceeded\n    Failing input written to testdata/x\nFAIL": false,
		"panic: context deadline exceeded":                                                              false,
		"--- FAIL: FuzzX\n    wrong answer\nFAIL":                                                       false,
		"build failed": false,
	} {
		if got := onlyLate(log); got != want {
			t.Errorf("%q: got %v", log, got)
		}
	}
}

func TestTheLogIsClippedAndCounted(t *testing.T) {
	t.Parallel()
	log := strings.Repeat("x\n", 500) + strings.Repeat("y", 10_000) + "\nfuzz: elapsed: 3s, execs: 12 (4/sec)\nfuzz: elapsed: 6s, execs: 345 (1/sec)\n"
	if got := clip(log); len(got) > 20_000 || !strings.Contains(got, "execs: 345") {
		t.Errorf("%d bytes", len(got))
	}
	if got := executions(log); got != "345 executions" {
		t.Errorf("got %q", got)
	}
	if got := executions("build failed"); got != "no executions" {
		t.Errorf("got %q", got)
	}
}
