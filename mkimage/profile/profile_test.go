// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package profile_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"cocoon/internal/cmdline"
	"cocoon/mkimage/profile"
	"cocoon/rootfs/boot"
)

func TestEveryProfileHasACommandLineThatPID1Accepts(t *testing.T) {
	t.Parallel()
	var names []string
	for _, p := range profile.All() {
		names = append(names, p.Name)
		c, err := cmdline.Parse(strings.Join(p.Cmdline, " "))
		if err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
		if v, ok := c.Value(boot.ParamIP); ok {
			if _, err := boot.ParseIP(v); err != nil {
				t.Errorf("%s: %v", p.Name, err)
			}
		}
		if v, _ := c.Value("panic"); v != "-1" {
			t.Errorf("%s: a panic would leave the guest standing: panic=%q", p.Name, v)
		}
		if p.MemoryMiB < 192 || len(p.Modules) == 0 || p.Purpose == "" {
			t.Errorf("%s is incomplete: %+v", p.Name, p)
		}
		for _, m := range p.Modules {
			if m.Name == "" || strings.ContainsAny(m.Name, "/.- ") {
				t.Errorf("%s: module name %q", p.Name, m.Name)
			}
		}
	}
	if !slices.IsSorted(names) || !slices.Contains(names, "dev") {
		t.Errorf("profiles are %q", names)
	}
}

func TestAnUnknownProfileIsAnErrorThatListsTheKnownOnes(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "DEV", "prod", "dev "} {
		if _, err := profile.Named(name); !errors.Is(err, profile.ErrUnknown) || !strings.Contains(err.Error(), "dev") {
			t.Errorf("%q: got %v", name, err)
		}
	}
}
