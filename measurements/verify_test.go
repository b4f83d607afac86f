// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"cocoon/measurements/selftest"
)

func TestTheProgramChecksItself(t *testing.T) {
	t.Parallel()
	out, err := run(t, "verify")
	if err != nil || strings.Contains(out, "DIFFERS") || !strings.Contains(out, "by veritysetup") || !strings.Contains(out, "  equal    TDX RTMR1: edk2 202511") {
		t.Errorf("%v:\n%s", err, out)
	}
	if _, err := run(t, "verify", "x"); err == nil {
		t.Error("an argument is taken")
	}
}

func TestAWrongPredictionIsShownAndAnError(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	err := writeChecks(&b, []selftest.Check{{Name: "one", Origin: "o", Got: "aa", Want: "aa"}, {Name: "two", Origin: "o", Got: "aa", Want: "bb"}})
	if !errors.Is(err, errWrong) || !strings.Contains(b.String(), "DIFFERS  two\n           here aa\n           there bb\n1 of 2 equal") {
		t.Errorf("%v:\n%s", err, b.String())
	}
}
