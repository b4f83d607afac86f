// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"

	"cocoon/mkimage/deb/debtest"
	"cocoon/rootfs/recipe"
)

func want(names ...string) []recipe.Module {
	var mods []recipe.Module
	for _, n := range names {
		n, optional := strings.CutPrefix(n, "?")
		mods = append(mods, recipe.Module{Name: n, Optional: optional})
	}
	return mods
}

func resolve(t *testing.T, deps map[string]string, names ...string) ([]string, error) {
	t.Helper()
	k, err := newKernel(fakeFiles(t, deps))
	if err != nil {
		t.Fatal(err)
	}
	mods, err := k.Resolve(want(names...))
	var got []string
	for _, m := range mods {
		mark := ""
		if m.Optional {
			mark = "?"
		}
		got = append(got, mark+strings.TrimPrefix(m.Path, "/lib/modules/6.1/kernel/"))
	}
	return got, err
}

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	t.Parallel()
	deps := map[string]string{"net-a": "ring,virtio", "ring": "virtio", "virtio": "", "disk": "ring,ext4", "cd": "ring,scsi-x", "scsi_x": ""}
	for name, tc := range map[string]struct{ want, got []string }{
		"chain":                       {[]string{"net-a"}, []string{"virtio.ko", "ring.ko", "net-a.ko"}},
		"underscore for dash":         {[]string{"net_a"}, []string{"virtio.ko", "ring.ko", "net-a.ko"}},
		"shared once":                 {[]string{"net-a", "disk"}, []string{"virtio.ko", "ring.ko", "net-a.ko", "disk.ko"}},
		"built in":                    {[]string{"ext4", "af_packet"}, nil},
		"optional brings optional":    {[]string{"?cd", "ring"}, []string{"virtio.ko", "ring.ko", "?scsi_x.ko", "?cd.ko"}},
		"wanted twice":                {[]string{"ring", "ring"}, []string{"virtio.ko", "ring.ko"}},
		"required wins over optional": {[]string{"?ring", "ring"}, []string{"virtio.ko", "ring.ko"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := resolve(t, deps, tc.want...)
			if err != nil || !slices.Equal(got, tc.got) {
				t.Errorf("got %q, %v; want %q", got, err, tc.got)
			}
		})
	}
}

func TestModulesThatCannotBeResolvedAreErrors(t *testing.T) {
	t.Parallel()
	deps := map[string]string{"a": "b", "b": "a", "self": "self", "lost": "nowhere", "odd": "../x"}
	for name, wantErr := range map[string]error{
		"a": ErrCycle, "self": ErrCycle, "lost": ErrNoModule, "missing": ErrNoModule, "?missing": ErrNoModule, "odd": ErrModule,
	} {
		if got, err := resolve(t, deps, name); !errors.Is(err, wantErr) {
			t.Errorf("%s: got %q, %v; want %v", name, got, err, wantErr)
		}
	}
}

func TestPackagesThatAreNoKernelAreRefused(t *testing.T) {
	t.Parallel()
	for name, files := range map[string]map[string][]byte{
		"empty":        {},
		"no image":     {"lib/modules/6.1/a.ko": nil},
		"no modules":   {"boot/vmlinuz-6.1": []byte("k")},
		"two images":   {"boot/vmlinuz-6.1": []byte("k"), "boot/vmlinuz-6.2": []byte("k"), "lib/modules/6.1/a.ko": nil},
		"two releases": {"boot/vmlinuz-6.1": []byte("k"), "lib/modules/6.1/a.ko": nil, "lib/modules/6.2/b.ko": nil},
		"name twice":   {"boot/vmlinuz-6.1": []byte("k"), "lib/modules/6.1/x/a.ko": nil, "lib/modules/6.1/y/a.ko": nil},
	} {
		if _, err := newKernel(files); !errors.Is(err, ErrPackage) {
			t.Errorf("%s: got %v, want ErrPackage", name, err)
		}
	}
}

func TestCompressedModulesAreUnpacked(t *testing.T) {
	t.Parallel()
	plain := fakeModule(t, "depends=\x00")
	var packed bytes.Buffer
	w, err := xz.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	k, err := newKernel(map[string][]byte{"boot/vmlinuz-6.12": []byte("k"), "usr/lib/modules/6.12/kernel/a.ko.xz": packed.Bytes()})
	if err != nil {
		t.Fatal(err)
	}
	mods, err := k.Resolve(want("a"))
	if err != nil || len(mods) != 1 || mods[0].Path != "/lib/modules/6.12/kernel/a.ko" || !bytes.Equal(mods[0].Data, plain) {
		t.Errorf("got %d modules, %v", len(mods), err)
	}
	k.modules["a"] = file{path: "kernel/a.ko.xz", data: packed.Bytes()[:20]}
	if _, err := k.Resolve(want("a")); err == nil || !strings.Contains(err.Error(), "kernel/a.ko.xz") {
		t.Errorf("a truncated module gives %v, want an error that names it", err)
	}
}

func TestAPackageAndItsUnpackedFilesGiveTheSameKernel(t *testing.T) {
	t.Parallel()
	files := fakeFiles(t, map[string]string{"a": "b", "b": ""})
	deb, root := debtest.Make(t, files)
	one, err := FromDeb(t.Context(), deb)
	if err != nil {
		t.Fatal(err)
	}
	two, err := FromFiles(filepath.Join(root, "boot/vmlinuz-6.1"), filepath.Join(root, "lib/modules/6.1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []*Kernel{one, two} {
		mods, err := k.Resolve(want("a"))
		if err != nil || len(mods) != 2 || k.Release != "6.1" || string(k.Image) != "kernel" {
			t.Errorf("kernel %q with image %q and %d modules, %v", k.Release, k.Image, len(mods), err)
		}
	}
}

func TestBrokenSourcesAreErrorsThatNameTheFile(t *testing.T) {
	t.Parallel()
	other, _ := debtest.Make(t, map[string][]byte{"usr/bin/x": nil})
	if _, err := FromDeb(t.Context(), other); !errors.Is(err, ErrPackage) || !strings.Contains(err.Error(), other) {
		t.Errorf("another package: %v", err)
	}
	dir := t.TempDir()
	text := filepath.Join(dir, "text.deb")
	if err := os.WriteFile(text, []byte("no package"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := FromDeb(t.Context(), text); err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("no package: %v", err)
	}
	if _, err := FromFiles(filepath.Join(dir, "absent"), dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an absent kernel gives %v", err)
	}
	if _, err := FromFiles(text, filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent modules give %v", err)
	}
}

func FuzzDepends(f *testing.F) {
	f.Add([]byte("license=GPL\x00depends=a,b-c\x00"))
	f.Add([]byte("depends=\x00"))
	f.Add(fakeModule(f, "depends=virtio,ring\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := depends(data); err != nil && !errors.Is(err, ErrModule) {
			t.Errorf("error %v is not ErrModule", err)
		}
		names, err := parseDepends(data)
		if err != nil && !errors.Is(err, ErrModule) {
			t.Errorf("error %v is not ErrModule", err)
		}
		for _, n := range names {
			if n == "" || strings.ContainsAny(n, "/-") {
				t.Errorf("accepted name %q", n)
			}
		}
	})
}
