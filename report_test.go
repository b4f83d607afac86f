// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/internal/config"
)

func TestTheSettingsOfAGuestAreShown(t *testing.T) {
	t.Parallel()
	cdh := filepath.Join(t.TempDir(), "cdh.toml")
	if err := os.WriteFile(cdh, []byte("[kbc]\nname = \"cc_kbc\"\nurl = \"https://kbs.example.com\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if code := configMain([]string{"--json", "--cdh-config", cdh}, &out, &errs); code != 0 || errs.Len() != 0 {
		t.Fatalf("%d %s", code, &errs)
	}
	var values []config.Value
	if err := json.Unmarshal(out.Bytes(), &values); err != nil {
		t.Fatal(err)
	}
	want := config.Value{Key: "cdh.kbc.url", Value: "https://kbs.example.com", From: config.Source(cdh)}
	found := false
	for _, v := range values {
		found = found || v == want
	}
	if !found {
		t.Errorf("%+v is missing in %s", want, &out)
	}
	out.Reset()
	if code := configMain([]string{"--cdh-config", cdh}, &out, &errs); code != 0 || !strings.Contains(out.String(), "https://kbs.example.com\n") {
		t.Errorf("%d %s", code, &out)
	}
}

func TestSettingsThatMakeNoSenseAreNotShown(t *testing.T) {
	t.Parallel()
	bad := filepath.Join(t.TempDir(), "cdh.toml")
	if err := os.WriteFile(bad, []byte("[kbc"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"--cdh-config", bad}, 1, "cocoon config: "},
		{[]string{"--cdh-config", bad + ".absent"}, 1, "no such file"},
		{[]string{"--jsn"}, 2, "jsn"},
		{[]string{"extra"}, 2, "unexpected argument"},
	} {
		var out, errs bytes.Buffer
		if code := configMain(tc.args, &out, &errs); code != tc.code || out.Len() != 0 || !strings.Contains(errs.String(), tc.text) {
			t.Errorf("%q: %d %q %q", tc.args, code, &out, &errs)
		}
	}
}
