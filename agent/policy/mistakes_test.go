// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"strings"
	"testing"
)

func TestMistakesInAPolicyAreOneLineWithTheirPlace(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ text, says string }{
		"syntax":            {"package agent_policy\n\ndefault X = = true\n", "line 3: "},
		"unknown function":  {"package agent_policy\n\nX if nosuch(1)\n", "line 3: undefined function nosuch"},
		"forbidden builtin": {"package agent_policy\nX if http.send({}).status_code == 200\n", "line 2: undefined function http.send"},
		"many":              {"package agent_policy\n" + strings.Repeat("X if nosuch(1)\n", 20), "more"},
		"empty":             {"", "empty module"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := compile(tc.text, nil)
			if !errors.Is(err, ErrBadPolicy) || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v; want one line with %q", err, tc.says)
			}
		})
	}
}
