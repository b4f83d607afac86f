// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestTheRoleFollowsFromPidAndArguments(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		args []string
		pid  int
		want role
		rest []string
	}{
		"PID 1 of the machine":                       {[]string{"/init"}, 1, roleInit, nil},
		"PID 1 ignores words of the command line":    {[]string{"/init", "guest", "version"}, 1, roleInit, nil},
		"pause is PID 1 of its namespace":            {[]string{"/pause"}, 1, rolePause, nil},
		"pause in a shared namespace":                {[]string{"/pause"}, 17, rolePause, nil},
		"the guest role":                             {[]string{"cocoon", "guest", "--root", "/x"}, 86, roleGuest, []string{"--root", "/x"}},
		"policy":                                     {[]string{"cocoon", "policy", "test", "x"}, 86, rolePolicy, []string{"test", "x"}},
		"config":                                     {[]string{"cocoon", "config", "--json"}, 86, roleConfig, []string{"--json"}},
		"version":                                    {[]string{"cocoon", "version"}, 86, roleVersion, nil},
		"version takes no arguments":                 {[]string{"cocoon", "version", "x"}, 86, roleUnknown, nil},
		"nothing":                                    {[]string{"cocoon"}, 86, roleUnknown, nil},
		"init is decided before and unknown here":    {[]string{"cocoon", "init"}, 86, roleUnknown, nil},
		"an empty argument vector of a strange exec": {nil, 86, roleUnknown, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, rest := chooseRole(tc.args, tc.pid)
			if got != tc.want || !slices.Equal(rest, tc.rest) {
				t.Errorf("got role %d with %q, want %d with %q", got, rest, tc.want, tc.rest)
			}
		})
	}
}

func TestWrongFlagsAreRefusedWithOneReason(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		args []string
		says string
	}{
		"unknown flag":     {[]string{"--nosuch"}, "nosuch"},
		"stray argument":   {[]string{"now"}, `unexpected argument "now"`},
		"bad address":      {[]string{"--agent-listen", "udp://1.2.3.4:5"}, "--agent-listen"},
		"address no value": {[]string{"--agent-listen"}, "agent-listen"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var errs bytes.Buffer
			_, err := parseOptions(tc.args, &errs)
			if err == nil || !strings.Contains(errs.String(), tc.says) || strings.Count(errs.String(), "\n") != 1 {
				t.Errorf("error %v, output %q; want one line that says %q", err, &errs, tc.says)
			}
		})
	}
}

func TestHelpListsTheFlags(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if _, err := parseOptions([]string{"-h"}, &out); !errors.Is(err, flag.ErrHelp) || !strings.Contains(out.String(), "-agent-listen") {
		t.Errorf("got %v, %q", err, &out)
	}
}

func TestFlagsBecomeOptions(t *testing.T) {
	t.Parallel()
	o, err := parseOptions([]string{"--agent-listen", "unix:///s", "--policy", "p", "--tee", "sample", "--sample-device"}, &bytes.Buffer{})
	if err != nil || o.listen != "unix:///s" || o.policy != "p" || o.tee != "sample" || !o.device || !o.any() {
		t.Errorf("got %+v, error %v", o, err)
	}
	none, err := parseOptions(nil, &bytes.Buffer{})
	if err != nil || none.any() {
		t.Errorf("no flags give %+v, error %v", none, err)
	}
	rel, err := parseOptions([]string{"--root", "x"}, &bytes.Buffer{})
	if err != nil || !filepath.IsAbs(rel.root) {
		t.Errorf("a relative root becomes %q, error %v", rel.root, err)
	}
}

func TestTheProfileIsThatOfTheImage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(content string) string {
		t.Helper()
		path := filepath.Join(dir, content)
		if err := os.WriteFile(path, []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, tc := range map[string]struct {
		path string
		want string
		err  error
	}{
		"no image":        {filepath.Join(dir, "absent"), hostProfile, nil},
		"dev":             {write("dev"), "dev", nil},
		"unknown profile": {write("prod"), "", errUnknownProfile},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := readProfile(tc.path)
			if p.name != tc.want || !errors.Is(err, tc.err) {
				t.Errorf("got %q, %v; want %q, %v", p.name, err, tc.want, tc.err)
			}
		})
	}
	if _, err := readProfile(dir); err == nil {
		t.Error("a profile that cannot be read was taken for no image")
	}
}

func TestOnlyProfilesWithTheSampleTEEAcceptUnmeasuredConfiguration(t *testing.T) {
	t.Parallel()
	for _, p := range profiles() {
		if p.unmeasured && p.tee != "sample" && p.name != hostProfile {
			t.Errorf("profile %q accepts unmeasured configuration on a real TEE", p.name)
		}
	}
}

func TestAnImageAcceptsNoFlag(t *testing.T) {
	t.Parallel()
	for _, p := range profiles() {
		if err := p.accepts(options{}); err != nil {
			t.Errorf("profile %q without flags: %v", p.name, err)
		}
		for _, args := range [][]string{
			{"--agent-listen", "unix:///x"}, {"--policy", "x"}, {"--aa-config", "x"}, {"--cdh-config", "x"},
			{"--root", "/x"}, {"--tee", "sample"}, {"--rest-listen", "127.0.0.1:0"},
		} {
			o, err := parseOptions(args, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.accepts(o); errors.Is(err, errFlags) != (p.name != hostProfile) {
				t.Errorf("profile %q with %q: %v", p.name, args, err)
			}
		}
	}
}
