// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package stage_test

import (
	"errors"
	"fmt"
	"testing"

	"cocoon/internal/stage"
)

func TestTheInnermostStageIsTheOneReported(t *testing.T) {
	t.Parallel()
	cause := errors.New("no such host")
	err := stage.Wrap(stage.DNS, cause)
	err = fmt.Errorf("get resource %q: %w", "kbs:///a/b/c", err)
	err = stage.Wrap(stage.Decrypt, err)
	if got := stage.Of(err); got != stage.DNS {
		t.Errorf("stage is %q, want dns", got)
	}
	if !errors.Is(err, cause) {
		t.Errorf("%v lost its cause", err)
	}
	if want := `get resource "kbs:///a/b/c": dns: no such host`; err.Error() != want {
		t.Errorf("text is %q, want %q", err, want)
	}
}

func TestNoErrorHasNoStage(t *testing.T) {
	t.Parallel()
	if err := stage.Wrap(stage.TLS, nil); err != nil {
		t.Errorf("Wrap(nil) = %v", err)
	}
	if got := stage.Of(errors.New("x")); got != "" {
		t.Errorf("a plain error has stage %q", got)
	}
}

func TestErrorfKeepsTheWrappedCause(t *testing.T) {
	t.Parallel()
	cause := errors.New("x")
	err := stage.Errorf(stage.Unpack, "layer %d: %w", 3, cause)
	if !errors.Is(err, cause) || err.Error() != "unpack: layer 3: x" {
		t.Errorf("got %v", err)
	}
}
