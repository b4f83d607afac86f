// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cocoon/mkimage/image"
	"cocoon/mkimage/image/binarytest"
	"cocoon/mkimage/manifest"
	"cocoon/mkimage/profile"
)

// inputs makes a kernel with modules in a new directory and takes the test's
// own program as the guest binary. The files are made in the given order.
func inputs(t *testing.T, reverse bool) image.Inputs {
	t.Helper()
	dir := t.TempDir()
	p, err := profile.Named("dev")
	if err != nil {
		t.Fatal(err)
	}
	p.Modules, p.OptionalModules = nil, nil
	var builtin []string
	for i := range 40 {
		builtin = append(builtin, fmt.Sprintf("kernel/m%d.ko", i))
		p.Modules = append(p.Modules, fmt.Sprintf("m%d", i))
	}
	files := [][2]string{{"vmlinuz", "kernel"}, {"6.1/modules.builtin", strings.Join(builtin, "\n")}, {"policy.rego", "package p"}, {"ca.pem", "pem"}}
	if reverse {
		slices.Reverse(files)
	}
	for _, f := range files {
		name := filepath.Join(dir, f[0])
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(f[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		if reverse {
			old := time.Unix(1, 0)
			if err := os.Chtimes(name, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	return image.Inputs{
		Profile: p, Kernel: filepath.Join(dir, "vmlinuz"), Modules: filepath.Join(dir, "6.1"), Binary: binarytest.Small(t),
		Policy: filepath.Join(dir, "policy.rego"), CABundle: filepath.Join(dir, "ca.pem"), Epoch: 12345,
		Append: []string{"agent.log=debug"},
	}
}

func quiet(string, ...any) {}

func build(t *testing.T, in image.Inputs) (string, *manifest.Manifest) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	m, err := image.Build(t.Context(), in, dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return dir, m
}

// Not parallel: the umask belongs to the whole process.
func TestTheSameInputsGiveTheSameBytes(t *testing.T) {
	binary := binarytest.Small(t)
	for _, compress := range []bool{false, true} {
		in := inputs(t, false)
		in.Compress, in.Binary = compress, binary
		one, _ := build(t, in)
		in = inputs(t, true)
		in.Compress, in.Binary = compress, binary
		old := syscall.Umask(0o077)
		t.Setenv("TZ", "Pacific/Auckland")
		two, _ := build(t, in)
		syscall.Umask(old)
		for _, name := range []string{image.KernelFile, image.InitrdFile, manifest.Name} {
			a, errA := os.ReadFile(filepath.Join(one, name))
			b, errB := os.ReadFile(filepath.Join(two, name))
			if errA != nil || errB != nil || len(a) == 0 || !bytes.Equal(a, b) {
				t.Errorf("compress %t: %s differs: %d and %d bytes, %v %v", compress, name, len(a), len(b), errA, errB)
			}
			if name == manifest.Name && bytes.Contains(a, []byte(filepath.Dir(one))) {
				t.Errorf("the manifest holds a path of this machine:\n%s", a)
			}
			if fi, err := os.Stat(filepath.Join(two, name)); err != nil || fi.Mode().Perm() != 0o644 {
				t.Errorf("%s has mode %v, %v", name, fi.Mode(), err)
			}
		}
	}
}

func TestTheImageHoldsWhatTheManifestSays(t *testing.T) {
	t.Parallel()
	binary := binarytest.Small(t)
	for _, compress := range []bool{false, true} {
		in := inputs(t, false)
		in.Compress, in.Binary = compress, binary
		dir, built := build(t, in)
		m, err := image.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if m.Tree != built.Tree || m.Release != "6.1" || m.Epoch != 12345 || !strings.HasSuffix(m.Cmdline, " agent.log=debug") || m.Tools.BinaryGo == "" {
			t.Errorf("manifest is %+v", m)
		}
		entries, err := image.Root(dir, m)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, e := range entries {
			got[e.Path] = string(e.Data)
		}
		for path, want := range map[string]string{
			"etc/cocoon/profile": "dev\n", "etc/cocoon/epoch": "12345\n", "etc/cocoon/modules": "",
			"etc/kata-opa/default-policy.rego": "package p", "etc/ssl/certs/ca-certificates.crt": "pem",
		} {
			if data, ok := got[path]; !ok || data != want {
				t.Errorf("%s holds %q, %t; want %q", path, data, ok, want)
			}
		}
		if bin, err := os.ReadFile(in.Binary); err != nil || got["init"] != string(bin) {
			t.Errorf("init is not the binary: %d bytes, %v", len(got["init"]), err)
		}
	}
}

// onDisk are inputs of an image with its root on a disk.
func onDisk(t *testing.T, reverse bool) image.Inputs {
	t.Helper()
	in := inputs(t, reverse)
	p, err := profile.Named("snp-verity")
	if err != nil {
		t.Fatal(err)
	}
	p.Modules, p.OptionalModules, p.FirstModules = in.Profile.Modules, nil, in.Profile.Modules[:3]
	in.Profile = p
	return in
}

func TestARootOnADiskIsTheSameRoot(t *testing.T) {
	t.Parallel()
	binary := binarytest.Small(t)
	in := onDisk(t, false)
	in.Binary, in.First = binary, binary
	one, m := build(t, in)
	in = onDisk(t, true)
	in.Binary, in.First = binary, binary
	two, again := build(t, in)
	if m.Verity == nil || *m.Verity != *again.Verity || !strings.HasPrefix(m.Verity.Text, "root_hash="+m.Verity.RootHash+",salt="+m.Verity.Salt) {
		t.Errorf("two builds are checked by %+v and %+v", m.Verity, again.Verity)
	}
	for _, name := range []string{image.RootFile, image.InitrdFile, image.DropInFile, manifest.Name} {
		a, errA := os.ReadFile(filepath.Join(one, name))
		b, errB := os.ReadFile(filepath.Join(two, name))
		if errA != nil || errB != nil || len(a) == 0 || !bytes.Equal(a, b) {
			t.Errorf("%s differs: %d and %d bytes, %v %v", name, len(a), len(b), errA, errB)
		}
	}
	root, err := image.Root(one, m)
	if err != nil {
		t.Fatal(err)
	}
	in = onDisk(t, false)
	in.Binary, in.Profile.Layout = binary, profile.Initramfs
	memory, m2 := build(t, in)
	root2, err := image.Root(memory, m2)
	if err != nil || m2.Tree != m.Tree || len(root) != len(root2) {
		t.Errorf("in memory the root is %s, on the disk %s; %d and %d files, %v", m2.Tree, m.Tree, len(root2), len(root), err)
	}
	if left, err := filepath.Glob(filepath.Join(one, ".root-*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	text, err := os.ReadFile(filepath.Join(one, image.DropInFile))
	if err != nil || !strings.Contains(string(text), `verity_params = "`+m.Verity.Text+`"`) || !strings.Contains(string(text), `kernel_params = "`+m.Cmdline+`"`) {
		t.Errorf("the shim is told %s (%v)", text, err)
	}
}

// The tool of dm-verity's own project is the reference.
func TestTheReferenceAcceptsTheDisk(t *testing.T) {
	t.Parallel()
	in := onDisk(t, false)
	in.Binary = binarytest.Small(t)
	in.First = in.Binary
	dir, m := build(t, in)
	disk, err := os.ReadFile(filepath.Join(dir, image.RootFile))
	if err != nil {
		t.Fatal(err)
	}
	size := m.Verity.DataBlocks * m.Verity.DataBlockSize
	data, tree := filepath.Join(dir, "data"), filepath.Join(dir, "tree")
	start := 1<<20 + (size+1<<20-1)>>20<<20
	if err := errors.Join(os.WriteFile(data, disk[1<<20:1<<20+size], 0o600), os.WriteFile(tree, disk[start:], 0o600)); err != nil {
		t.Fatal(err)
	}
	check := func() ([]byte, error) {
		return exec.CommandContext(t.Context(), "veritysetup", "verify", "--no-superblock", "--data-blocks", fmt.Sprint(m.Verity.DataBlocks),
			"--salt", m.Verity.Salt, data, tree, m.Verity.RootHash).CombinedOutput()
	}
	if out, err := check(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	disk[1<<20+size/2] ^= 1
	if err := os.WriteFile(data, disk[1<<20:1<<20+size], 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := check(); err == nil {
		t.Errorf("a changed block is accepted: %s", out)
	}
}

func TestWrongInputsAreErrorsThatNameThem(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(*image.Inputs)
		want   string
	}{
		"no kernel":       {func(in *image.Inputs) { in.Kernel = "" }, "neither a kernel package"},
		"both kernels":    {func(in *image.Inputs) { in.KernelDeb = in.Kernel }, "both a kernel package"},
		"no binary":       {func(in *image.Inputs) { in.Binary = "/nonexistent/guest" }, "/nonexistent/guest"},
		"empty binary":    {func(in *image.Inputs) { in.Binary = empty }, "is empty"},
		"not a go binary": {func(in *image.Inputs) { in.Binary = in.Policy }, "policy.rego"},
		"no policy":       {func(in *image.Inputs) { in.Policy = "/nonexistent/policy" }, "/nonexistent/policy"},
		"empty policy":    {func(in *image.Inputs) { in.Policy = empty }, "is empty"},
		"no CA bundle":    {func(in *image.Inputs) { in.CABundle = "/nonexistent/ca" }, "/nonexistent/ca"},
		"unknown module":  {func(in *image.Inputs) { in.Profile.Modules = []string{"warp_drive"} }, "warp_drive"},
		"negative epoch":  {func(in *image.Inputs) { in.Epoch = -1 }, "build time"},
		"no first": {func(in *image.Inputs) {
			in.Profile.Layout, in.Profile.FirstModules, in.First = profile.Extension, in.Profile.Modules, "/nonexistent/first"
		}, "/nonexistent/first"},
		"locked otherwise": {func(in *image.Inputs) { in.KernelDeb, in.Kernel, in.Modules, in.KernelSHA256 = in.Policy, "", "", "00" }, "locked is 00"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := inputs(t, false)
			tc.change(&in)
			dir := filepath.Join(t.TempDir(), "out")
			_, err := image.Build(t.Context(), in, dir, quiet)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Error("something half-made stays behind")
			}
		})
	}
}

func TestAChangedFileIsNoticed(t *testing.T) {
	t.Parallel()
	dir, _ := build(t, inputs(t, false))
	name := filepath.Join(dir, image.InitrdFile)
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := image.Open(dir); !errors.Is(err, image.ErrDigest) || !strings.Contains(err.Error(), image.InitrdFile) {
		t.Errorf("got %v, want ErrDigest with the file's name", err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if _, err := image.Open(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file gives %v", err)
	}
	if _, err := image.Open(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory without a manifest gives %v", err)
	}
}
