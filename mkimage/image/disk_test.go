// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoon/measurements/pe"
	"cocoon/mkimage/deb/debtest"
	"cocoon/mkimage/format/gpt"
	"cocoon/mkimage/format/uki/ukitest"
	"cocoon/mkimage/image"
	"cocoon/mkimage/image/binarytest"
	"cocoon/mkimage/manifest"
	"cocoon/mkimage/profile"
)

// machine are inputs of an image that boots itself.
func machine(t *testing.T, reverse bool, disks ...profile.Format) image.Inputs {
	t.Helper()
	in := inputs(t, reverse)
	p, err := profile.Named("podvm")
	if err != nil {
		t.Fatal(err)
	}
	p.Modules, p.OptionalModules, p.FirstModules, p.FirstOptionalModules, p.Disks = in.Profile.Modules, nil, in.Profile.Modules[:3], nil, disks
	in.Profile = p
	in.Stub = filepath.Join(t.TempDir(), "stub.efi")
	if err := os.WriteFile(in.Stub, ukitest.Program("stub"), 0o600); err != nil {
		t.Fatal(err)
	}
	return in
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestADiskIsTheSameInEveryForm(t *testing.T) {
	t.Parallel()
	binary := binarytest.Small(t)
	forms := []profile.Format{profile.Raw, profile.QCOW2, profile.VHD, profile.GCP}
	in := machine(t, false, forms...)
	in.Binary, in.First = binary, binary
	one, m := build(t, in)
	in = machine(t, true, forms...)
	in.Binary, in.First = binary, binary
	two, _ := build(t, in)
	for _, o := range append(m.Outputs, manifest.File{File: manifest.Name}) {
		if a, b := read(t, filepath.Join(one, o.File)), read(t, filepath.Join(two, o.File)); len(a) == 0 || !bytes.Equal(a, b) {
			t.Errorf("%s differs: %d and %d bytes", o.File, len(a), len(b))
		}
	}
	if len(m.Outputs) != 1+len(forms) {
		t.Errorf("outputs are %+v", m.Outputs)
	}
	raw := read(t, filepath.Join(one, "disk.raw"))
	if b := read(t, filepath.Join(one, "disk.vhd")); !bytes.Equal(b[:len(b)-512], raw) || string(b[len(b)-512:][:8]) != "conectix" || len(raw)%gpt.MiB != 0 {
		t.Errorf("the VHD is another disk, or not of whole MiB: %d bytes, raw %d", len(b), len(raw))
	}
	if size := gcpDisk(t, filepath.Join(one, "disk.raw.tar.gz")); size == 0 || size%(1<<30) != 0 {
		t.Errorf("the disk for Google has %d bytes", size)
	}
	// The reference for QEMU's own form.
	if out, err := exec.CommandContext(t.Context(), "qemu-img", "compare", filepath.Join(one, "disk.qcow2"), filepath.Join(one, "disk.raw")).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if left, err := filepath.Glob(filepath.Join(one, ".*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	for _, form := range forms {
		rootOf(t, one, m, form)
	}
}

// gcpDisk is the size of the one file in an archive.
func gcpDisk(t *testing.T, name string) int64 {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(read(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 512)
	if _, err := io.ReadFull(z, head); err != nil || string(head[:9]) != "disk.raw\x00" || string(head[257:265]) != "ustar  \x00" {
		t.Fatalf("archive begins with %q (%v)", head, err)
	}
	var size int64
	if _, err := fmt.Sscanf(string(head[124:135]), "%o", &size); err != nil {
		t.Fatal(err)
	}
	return size
}

// rootOf reads the root from one form of the disk alone.
func rootOf(t *testing.T, dir string, m *manifest.Manifest, form profile.Format) {
	t.Helper()
	only := *m
	only.Outputs = slices.DeleteFunc(slices.Clone(m.Outputs), func(o manifest.File) bool { return o.Name != image.DiskName(form) })
	entries, err := image.Root(dir, &only)
	if err != nil {
		t.Errorf("%s: %v", form, err)
		return
	}
	for _, e := range entries {
		if e.Path == "etc/cocoon/profile" && string(e.Data) == "podvm\n" {
			return
		}
	}
	t.Errorf("%s: no root of profile podvm in %d files", form, len(entries))
}

func TestTheProgramNamesTheRootAndTheDiskHasIt(t *testing.T) {
	t.Parallel()
	in := machine(t, false, profile.Raw)
	in.Binary = binarytest.Small(t)
	in.First = in.Binary
	dir, m := build(t, in)
	if !strings.HasSuffix(m.Cmdline, " agent.log=debug cocoon.root="+m.Verity.Text) {
		t.Errorf("command line %q", m.Cmdline)
	}
	list, err := pe.Sections(read(t, filepath.Join(dir, image.UKIFile)))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range list {
		got[s.Name] = string(s.Data)
	}
	if got[".cmdline"] != m.Cmdline || got[".linux"] != "kernel" || got[".uname"] != "6.1" || !strings.Contains(got[".osrel"], "ID=cocoon\n") || got[".initrd"] == "" {
		t.Errorf("sections %q, %q, %q, %q", got[".cmdline"], got[".linux"], got[".uname"], got[".osrel"])
	}
	kernel := filepath.Join(t.TempDir(), "vmlinuz")
	if err := image.UnpackKernel(dir, m, kernel); err != nil || string(read(t, kernel)) != "kernel" {
		t.Errorf("kernel: %v", err)
	}
	raw := read(t, filepath.Join(dir, "disk.raw"))
	table, err := gpt.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil || len(table.Partitions) != 3 {
		t.Fatalf("%+v, %v", table, err)
	}
	name := func(i int) string { return strings.ReplaceAll(table.Partitions[i].ID.String(), "-", "") }
	if name(1)+name(2) != m.Verity.RootHash {
		t.Errorf("partitions are called %s and %s, the root hash is %s", name(1), name(2), m.Verity.RootHash)
	}
	other := in
	other.Profile.Layout, other.Profile.Stub, other.Profile.Disks = profile.Extension, "", nil
	if _, again := build(t, other); again.Verity.RootHash != m.Verity.RootHash || again.Tree != m.Tree {
		t.Errorf("as a kata extension the root is %s", again.Verity.RootHash)
	}
}

func TestAStubComesOutOfItsPackage(t *testing.T) {
	t.Parallel()
	in := machine(t, false, profile.Raw)
	in.Binary = binarytest.Small(t)
	in.First = in.Binary
	plain, _ := build(t, in)
	in.Stub = ""
	in.StubDeb, _ = debtest.Make(t, map[string][]byte{"usr/lib/systemd/boot/efi/linuxx64.efi.stub": ukitest.Program("stub"), "usr/lib/systemd/boot/efi/linuxx64.elf.stub": []byte("x")})
	packed, m := build(t, in)
	if !bytes.Equal(read(t, filepath.Join(plain, image.UKIFile)), read(t, filepath.Join(packed, image.UKIFile))) {
		t.Error("the program differs")
	}
	if !slices.ContainsFunc(m.Inputs, func(f manifest.File) bool { return f.Name == "stub-package" && f.SHA256 != "" }) {
		t.Errorf("inputs are %+v", m.Inputs)
	}
}

func TestWrongStubsAreErrorsThatNameThem(t *testing.T) {
	t.Parallel()
	binary := binarytest.Small(t)
	other, _ := debtest.Make(t, map[string][]byte{"usr/lib/x": []byte("x")})
	for name, tc := range map[string]struct {
		change func(*image.Inputs)
		want   string
	}{
		"none":             {func(in *image.Inputs) { in.Stub = "" }, "neither a package of the stub nor a stub"},
		"both":             {func(in *image.Inputs) { in.StubDeb = other }, "both a package of the stub"},
		"absent":           {func(in *image.Inputs) { in.Stub = "/nonexistent/stub" }, "/nonexistent/stub"},
		"no program":       {func(in *image.Inputs) { in.Stub = in.Policy }, "unified kernel image"},
		"no package":       {func(in *image.Inputs) { in.Stub, in.StubDeb = "", in.Policy }, "policy.rego"},
		"package without":  {func(in *image.Inputs) { in.Stub, in.StubDeb = "", other }, "has no usr/lib/systemd"},
		"locked otherwise": {func(in *image.Inputs) { in.Stub, in.StubDeb, in.StubSHA256 = "", other, "00" }, "locked is 00"},
		"late epoch":       {func(in *image.Inputs) { in.Epoch = 1 << 33 }, "build time"},
		"unknown form":     {func(in *image.Inputs) { in.Profile.Disks = []profile.Format{"floppy"} }, "floppy"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := machine(t, false, profile.Raw)
			in.Binary, in.First = binary, binary
			tc.change(&in)
			dir := filepath.Join(t.TempDir(), "out")
			if _, err := image.Build(t.Context(), in, dir, quiet); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if _, err := os.Stat(filepath.Join(dir, manifest.Name)); !errors.Is(err, os.ErrNotExist) {
				t.Error("there is a manifest")
			}
			if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) != 0 {
				t.Errorf("left behind: %q, %v", left, err)
			}
		})
	}
}
