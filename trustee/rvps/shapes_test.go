// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package rvps

import (
	"encoding/json"
	"testing"

	"cocoon/internal/sharedtest"
)

// The shapes are those that Trustee's own policy asks for.
func TestMessagesOfTrusteesShapesKeepThem(t *testing.T) {
	t.Parallel()
	var file struct {
		Values   map[string]map[string]any
		Messages map[string]json.RawMessage
	}
	if err := json.Unmarshal(sharedtest.Read(t, "measure/rvps/rvps-shapes.json"), &file); err != nil {
		t.Fatal(err)
	}
	for tee, raw := range file.Messages {
		reg, err := parseMessage(raw, nil)
		if err != nil {
			t.Errorf("%s: %v", tee, err)
			continue
		}
		got, err1 := json.Marshal(reg.values)
		want, err2 := json.Marshal(file.Values[tee])
		if err1 != nil || err2 != nil || string(got) != string(want) || len(reg.values) == 0 {
			t.Errorf("%s: %s, want %s", tee, got, want)
		}
	}
	if len(file.Messages) < 5 {
		t.Errorf("only %d messages", len(file.Messages))
	}
}
