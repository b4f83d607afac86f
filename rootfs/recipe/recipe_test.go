// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package recipe_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cocoon/rootfs/boot"
	"cocoon/rootfs/recipe"
)

func root(t *testing.T, in recipe.Inputs) map[string]recipe.Entry {
	t.Helper()
	entries, err := recipe.Root(in)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]recipe.Entry{}
	for _, e := range entries {
		if _, ok := m[e.Path]; ok {
			t.Errorf("%q is there twice", e.Path)
		}
		m[e.Path] = e
	}
	return m
}

func valid() recipe.Inputs { return recipe.Inputs{Profile: "dev", Binary: []byte("elf")} }

func TestTheRootHasWhatTheKernelAndPID1Need(t *testing.T) {
	t.Parallel()
	in := valid()
	in.Modules = []recipe.ModuleFile{
		{Module: boot.Module{Path: "/lib/modules/6.1/a.ko"}, Data: []byte("a")},
		{Module: boot.Module{Path: "/lib/modules/6.1/b.ko", Optional: true}, Data: []byte("b")},
	}
	in.Epoch = 7
	m := root(t, in)
	for path, mode := range map[string]uint32{
		"init": recipe.TypeFile | 0o755, "dev/console": recipe.TypeChar | 0o600, "dev/kmsg": recipe.TypeChar | 0o600,
		"proc": recipe.TypeDir | 0o755, "tmp": recipe.TypeDir | 0o1777, "root": recipe.TypeDir | 0o700,
		"etc/resolv.conf": recipe.TypeSymlink | 0o777, "lib/modules/6.1/a.ko": recipe.TypeFile | 0o644,
		"pause_bundle/rootfs/pause": recipe.TypeFile | 0o755,
	} {
		if got := m[path].Mode; got != mode {
			t.Errorf("%s has mode %o, want %o", path, got, mode)
		}
	}
	for path, want := range map[string]string{
		"etc/cocoon/modules": "/lib/modules/6.1/a.ko\n?/lib/modules/6.1/b.ko\n", "etc/cocoon/epoch": "7\n",
		"etc/cocoon/profile": "dev\n", "etc/resolv.conf": boot.ResolvPath, "init": "elf",
	} {
		if got := string(m[path].Data); got != want {
			t.Errorf("%s holds %q, want %q", path, got, want)
		}
	}
	for _, absent := range []string{recipe.PolicyPath, recipe.CABundlePath} {
		if _, ok := m[strings.TrimPrefix(absent, "/")]; ok {
			t.Errorf("%s is there though nobody gave it", absent)
		}
	}
}

func TestGivenPolicyAndRootsAreInTheImage(t *testing.T) {
	t.Parallel()
	in := valid()
	in.Policy, in.CABundle = []byte("policy"), []byte("pem")
	m := root(t, in)
	for path, want := range map[string]string{recipe.PolicyPath: "policy", recipe.CABundlePath: "pem"} {
		if got := string(m[strings.TrimPrefix(path, "/")].Data); got != want {
			t.Errorf("%s holds %q, want %q", path, got, want)
		}
	}
}

func TestThePauseBundleIsAnOCISpecification(t *testing.T) {
	t.Parallel()
	var spec specs.Spec
	if err := json.Unmarshal(root(t, valid())["pause_bundle/config.json"].Data, &spec); err != nil {
		t.Fatal(err)
	}
	if len(spec.Process.Args) != 1 || spec.Process.Args[0] != "/pause" || !spec.Root.Readonly || spec.Process.User.UID == 0 {
		t.Errorf("specification is %+v", spec)
	}
}

func TestRootsThatCouldNotBootAreRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*recipe.Inputs){
		"no profile":    func(in *recipe.Inputs) { in.Profile = "" },
		"no binary":     func(in *recipe.Inputs) { in.Binary = nil },
		"negative time": func(in *recipe.Inputs) { in.Epoch = -1 },
		"module path": func(in *recipe.Inputs) {
			in.Modules = []recipe.ModuleFile{{Module: boot.Module{Path: "/etc/passwd"}}}
		},
		"module with a line break": func(in *recipe.Inputs) {
			in.Modules = []recipe.ModuleFile{{Module: boot.Module{Path: "/lib/modules/a\n/x.ko"}}}
		},
	} {
		in := valid()
		change(&in)
		if _, err := recipe.Root(in); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
