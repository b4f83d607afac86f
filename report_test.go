// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
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
		{[]string{"--jsn"}, 2, "cocoon config: flag provided but not defined: -jsn; see cocoon config -h\n"},
		{[]string{"extra"}, 2, "unexpected argument"},
		{[]string{"--json", "extra"}, 2, "unexpected argument"},
		{[]string{"--agent-listen", "udp://1"}, 2, "--agent-listen"},
	} {
		var out, errs bytes.Buffer
		if code := configMain(tc.args, &out, &errs); code != tc.code || out.Len() != 0 || !strings.Contains(errs.String(), tc.text) || strings.Count(errs.String(), "\n") != 1 {
			t.Errorf("%q: %d %q %q", tc.args, code, &out, &errs)
		}
	}
}

func TestTheOptionsOfConfigMayStandAnywhere(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	if code := configMain([]string{"--agent-listen", "unix:///run/a.sock", "--json"}, &out, &errs); code != 0 || errs.Len() != 0 {
		t.Fatalf("%d %s", code, &errs)
	}
	var values []config.Value
	if err := json.Unmarshal(out.Bytes(), &values); err != nil {
		t.Fatal(err)
	}
	if want := (config.Value{Key: "server_addr", Value: "unix:///run/a.sock", From: config.FromFlag}); !slices.Contains(values, want) {
		t.Errorf("%+v is missing in %s", want, &out)
	}
	out.Reset()
	policy := filepath.Join(t.TempDir(), "p.rego")
	if err := os.WriteFile(policy, []byte("package agent_policy"), 0o600); err != nil {
		t.Fatal(err)
	}
	values = nil
	if code := configMain([]string{"--json", "--policy", policy, "--tee", "sample"}, &out, &errs); code != 0 || json.Unmarshal(out.Bytes(), &values) != nil {
		t.Fatalf("%d %s %s", code, &errs, &out)
	}
	for _, want := range []config.Value{
		{Key: "policy", Value: "20 bytes", From: config.Source(policy)}, {Key: "tee", Value: "sample", From: config.FromFlag},
		{Key: "profile", Value: "host", From: config.FromDefault},
	} {
		if !slices.Contains(values, want) {
			t.Errorf("%+v is missing in %s", want, &out)
		}
	}
	out.Reset()
	if code := configMain([]string{"--json", "-h"}, &out, &errs); code != 0 || errs.Len() != 0 || out.String() != configUsage {
		t.Errorf("help: %d %q %q", code, &out, &errs)
	}
}
