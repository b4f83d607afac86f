// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/mkimage/image"
	"cocoon/mkimage/manifest"
	"cocoon/mkimage/profile"
	"cocoon/mkimage/qemu"
	"cocoon/mkimage/release"
)

func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := newCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestWrongUseIsAnErrorThatSaysWhat(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no binary":       {[]string{"build", "--out", dir}, "binary"},
		"no output":       {[]string{"build", "--binary", "x"}, "out"},
		"no kernel":       {[]string{"build", "--binary", "x", "--out", dir}, "neither a kernel package"},
		"unknown profile": {[]string{"build", "--binary", "x", "--out", dir, "--profile", "prod"}, "unknown profile"},
		"two kernels":     {[]string{"build", "--binary", "x", "--out", dir, "--lock", "l", "--kernel-deb", "d"}, "already names kernel and stub"},
		"absent lock":     {[]string{"build", "--binary", "x", "--out", dir, "--lock", filepath.Join(dir, "l")}, "read the lock"},
		"absent package":  {[]string{"build", "--binary", "x", "--out", dir, "--kernel-deb", filepath.Join(dir, "k.deb")}, "k.deb"},
		"lock nowhere":    {[]string{"lock"}, "lock"},
		"inspect nothing": {[]string{"inspect", dir}, "manifest.json"},
		"boot nothing":    {[]string{"boot", dir}, "manifest.json"},
		"no such profile": {[]string{"profiles", "x"}, "unknown profile"},
	} {
		t.Run(name, func(t *testing.T) {
			if out, err := run(t, tc.args...); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q; output %q", err, tc.want, out)
			}
		})
	}
	t.Setenv("SOURCE_DATE_EPOCH", "soon")
	if _, err := run(t, "build", "--binary", "x", "--out", dir); err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH") {
		t.Errorf("a malformed SOURCE_DATE_EPOCH gives %v", err)
	}
}

func TestProfilesArePrinted(t *testing.T) {
	t.Parallel()
	if out, err := run(t, "profiles"); err != nil || !strings.HasPrefix(out, "dev ") {
		t.Errorf("got %q, %v", out, err)
	}
	if out, err := run(t, "profiles", "dev"); err != nil || !strings.Contains(out, "- console=ttyS0\n") {
		t.Errorf("got %q, %v", out, err)
	}
}

// tinyImage makes an image of a small initramfs alone, with a manifest that was
// changed.
func tinyImage(t *testing.T, change func(*manifest.Manifest)) string {
	t.Helper()
	dir := t.TempDir()
	initrd, err := os.ReadFile("testdata/tiny.cpio")
	if err != nil {
		t.Fatal(err)
	}
	m := manifest.Manifest{
		Schema: manifest.Schema, Profile: "dev", Cmdline: "quiet",
		Outputs: []manifest.File{manifest.Describe(image.InitrdName, image.InitrdFile, initrd)},
	}
	change(&m)
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	docs, err := release.Documents(&m)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{manifest.Name: b, image.InitrdFile: initrd}
	for _, d := range docs {
		files[d.File] = d.Data
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAnImageThatBootsItselfNeedsFirmwareAndTakesNoWords(t *testing.T) {
	t.Parallel()
	dir := tinyImage(t, func(m *manifest.Manifest) { m.Layout, m.MemoryMiB = string(profile.Disk), 256 })
	for want, args := range map[string][]string{
		"needs firmware":    {"boot", dir, "--firmware", filepath.Join(dir, "absent")},
		"is in its program": {"boot", dir, "--append", "x"},
		"no disk":           {"boot", dir, "--firmware", filepath.Join(dir, manifest.Name)},
	} {
		if out, err := run(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v\n%s", args, err, out)
		}
	}
	if _, err := run(t, "inspect", dir); err == nil || !strings.Contains(err.Error(), "no disk") {
		t.Errorf("inspect: %v", err)
	}
}

func TestInspectShowsWhatIsInTheImage(t *testing.T) {
	t.Parallel()
	dir := tinyImage(t, func(*manifest.Manifest) {})
	out, err := run(t, "inspect", dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"profile dev", "command line quiet", "040755", "  dev/console", "5:1", "etc/x -> /run/x", "  init "} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
}

func TestADocumentThatWasChangedIsNoticed(t *testing.T) {
	t.Parallel()
	dir := tinyImage(t, func(*manifest.Manifest) {})
	if err := os.WriteFile(filepath.Join(dir, release.SBOMFile), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, "inspect", dir); !errors.Is(err, image.ErrDigest) || !strings.Contains(err.Error(), release.SBOMFile) {
		t.Errorf("got %v", err)
	}
}

func TestDiffNamesWhatDiffersAndWhatThatChanges(t *testing.T) {
	t.Parallel()
	one := tinyImage(t, func(*manifest.Manifest) {})
	if out, err := run(t, "diff", one, tinyImage(t, func(*manifest.Manifest) {})); err != nil || !strings.Contains(out, "the same") {
		t.Errorf("of two that are the same: %q, %v", out, err)
	}
	two := tinyImage(t, func(m *manifest.Manifest) {
		m.Cmdline, m.TEEs = "loud", []string{"snp", "tdx"}
		m.Inputs = []manifest.File{manifest.Describe("binary", "cocoon", []byte("x"))}
		m.Tools.Modules = []manifest.GoModule{{Path: "example.com/m", Version: "v1"}}
	})
	out, err := run(t, "diff", one, two)
	if !errors.Is(err, errDiffer) {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{"command line: quiet → loud", "input binary: absent → ", "Go module example.com/m: absent → v1", "changes TDX RTMR2", "changes the SNP launch digest"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "RTMR1") {
		t.Errorf("the kernel is the same:\n%s", out)
	}
	if _, err := run(t, "diff", one, t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory without an image: %v", err)
	}
}

func TestFlagsChangeTheMachine(t *testing.T) {
	t.Parallel()
	m := &manifest.Manifest{Cmdline: "quiet", MemoryMiB: 512}
	c, err := bootFlags{append: "a=1", memory: 256, cpus: 2, disks: []string{"d.iso"}, forwards: []string{"1000:15150"}}.machine("dir", m)
	if err != nil {
		t.Fatal(err)
	}
	want := qemu.Config{
		Kernel: "dir/vmlinuz", Initrd: "dir/initrd.img", Cmdline: "quiet a=1", MemoryMiB: 256, CPUs: 2,
		Disks: []qemu.Disk{{File: "d.iso", ReadOnly: true}}, Forwards: []qemu.Forward{{HostPort: 1000, GuestPort: 15150}},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("machine differs (-want +got):\n%s", diff)
	}
	for _, bad := range []string{"", "1000", "a:b", "1:2x", "1:70000", "-1:2", "1:2:3"} {
		if _, err := (bootFlags{forwards: []string{bad}}).machine("dir", m); err == nil {
			t.Errorf("forward %q is accepted", bad)
		}
	}
}
