// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"errors"
	"testing"
)

func TestOnlyAPolicyThatSaysSoAllowsLayersThatNothingChecks(t *testing.T) {
	t.Parallel()
	const head = "package agent_policy\n"
	for text, want := range map[string]bool{
		AllowAll():                            false,
		DenyAll():                             false,
		genpolicy(t):                          false,
		head + "AllowUncheckedLayers := true": true,
		head + "default AllowUncheckedLayers := false":      false,
		head + "AllowUncheckedLayers := 1":                  false,
		head + "default AllowRequestsFailingPolicy := true": true,
	} {
		e := New(Config{})
		if err := e.Load(t.Context(), text); err != nil && !errors.Is(err, ErrBadPolicy) {
			t.Fatal(err)
		}
		if got, err := e.UncheckedLayers(t.Context()); err != nil || got != want {
			t.Errorf("%.200s: %t (%v)", text, got, err)
		}
	}
	e := loaded(t, Config{}, head+"AllowUncheckedLayers := true")
	if err := e.Load(t.Context(), AllowAll()); err != nil {
		t.Fatal(err)
	}
	if got, err := e.UncheckedLayers(t.Context()); err != nil || got {
		t.Errorf("what an earlier policy said counts: %t (%v)", got, err)
	}
	if err := e.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := e.UncheckedLayers(ctx); err == nil || got {
		t.Errorf("no time to ask: %t (%v)", got, err)
	}
	e.unlock()
}
