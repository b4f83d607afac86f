// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoon/measurements/se"
	"cocoon/measurements/se/setest"
	"cocoon/mkimage/image"
	"cocoon/mkimage/image/binarytest"
	"cocoon/mkimage/manifest"
	"cocoon/mkimage/profile"
	"cocoon/mkimage/pvimg"
	"cocoon/mkimage/release"
)

// secureExecution are inputs of an image for Secure Execution.
func secureExecution(t *testing.T, binary string, reverse bool) image.Inputs {
	t.Helper()
	in := inputs(t, reverse)
	p, err := profile.Named("se")
	if err != nil {
		t.Fatal(err)
	}
	p.Modules, p.OptionalModules = in.Profile.Modules, nil
	in.Profile, in.Binary = p, binary
	return in
}

// enough pages for the parts of any image here.
const enough = 1 << 20

// sealer makes an image of a header.
func sealer(header []byte) func(context.Context, pvimg.Parts, string) error {
	return func(_ context.Context, _ pvimg.Parts, out string) error {
		return os.WriteFile(out, setest.Image(header), 0o600)
	}
}

func TestThePartsForSecureExecutionAreTheSameForEverybody(t *testing.T) {
	t.Parallel()
	binary := binarytest.ForZ(t)
	one, m := build(t, secureExecution(t, binary, false))
	two, _ := build(t, secureExecution(t, binary, true))
	for _, name := range []string{image.KernelFile, image.InitrdFile, image.CmdlineFile, image.DropInFile, release.SealFile, manifest.Name} {
		if a, b := read(t, filepath.Join(one, name)), read(t, filepath.Join(two, name)); len(a) == 0 || !bytes.Equal(a, b) {
			t.Errorf("%s differs: %d and %d bytes", name, len(a), len(b))
		}
	}
	if got := string(read(t, filepath.Join(one, image.CmdlineFile))); got != m.Cmdline+"\n" || !strings.HasSuffix(got, " agent.log=debug\n") {
		t.Errorf("command line %q", got)
	}
	// The shim's words would not be read.
	toml := string(read(t, filepath.Join(one, image.DropInFile)))
	for _, want := range []string{`kernel = "/opt/cocoon/se/cocoon-se.img"`, `initrd = ""`, `kernel_params = ""`} {
		if !strings.Contains(toml, want) {
			t.Errorf("the shim is told %s", toml)
		}
	}
	if _, err := image.SEHeader(one, m); !errors.Is(err, image.ErrUnsealed) {
		t.Errorf("header of the parts: %v", err)
	}
	if root, err := image.Root(one, m); err != nil || len(root) == 0 {
		t.Errorf("root of %d files, %v", len(root), err)
	}
}

func TestAnImageIsKeptWithItsHeader(t *testing.T) {
	t.Parallel()
	dir, parts := build(t, secureExecution(t, binarytest.ForZ(t), false))
	var given pvimg.Parts
	for n, fill := range []byte{7, 8} { // the second replaces the first
		header := setest.Header(fill, enough)
		m, err := image.Seal(t.Context(), dir, func(ctx context.Context, p pvimg.Parts, out string) error {
			given = p
			return sealer(header)(ctx, p, out)
		}, quiet)
		if err != nil {
			t.Fatal(err)
		}
		opened, err := image.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		h, err := image.SEHeader(dir, opened)
		if err != nil || h.Tag[0] != fill || !bytes.Equal(read(t, filepath.Join(dir, image.SEHeaderFile)), header) {
			t.Errorf("header %+v, %v", h, err)
		}
		if len(opened.Outputs) != len(parts.Outputs)+2 || !slices.Equal(opened.Outputs, m.Outputs) || !slices.Equal(opened.Outputs[:len(parts.Outputs)], parts.Outputs) {
			t.Errorf("round %d: outputs %+v", n, opened.Outputs)
		}
		if text := string(read(t, filepath.Join(dir, release.ProvenanceFile))); !strings.Contains(text, opened.Outputs[len(opened.Outputs)-1].SHA256) || !strings.Contains(text, parts.Outputs[0].SHA256) {
			t.Errorf("provenance %s", text)
		}
		if fi, err := os.Stat(filepath.Join(dir, image.SEFile)); err != nil || fi.Mode().Perm() != 0o644 {
			t.Errorf("%+v, %v", fi, err)
		}
	}
	if want := (pvimg.Parts{Kernel: dir + "/vmlinuz", Initrd: dir + "/initrd.img", Cmdline: dir + "/cmdline"}); given != want {
		t.Errorf("made of %+v", given)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".se-*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestPartsThatAreBuiltAgainForgetTheImage(t *testing.T) {
	t.Parallel()
	in := secureExecution(t, binarytest.ForZ(t), false)
	dir, _ := build(t, in)
	if _, err := image.Seal(t.Context(), dir, sealer(setest.Header(1, enough)), quiet); err != nil {
		t.Fatal(err)
	}
	if _, err := image.Build(t.Context(), in, dir, quiet); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{image.SEFile, image.SEHeaderFile} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatIsNoImageForSecureExecutionLeavesThePartsAsTheyAre(t *testing.T) {
	t.Parallel()
	dir, parts := build(t, secureExecution(t, binarytest.ForZ(t), false))
	refused := errors.New("refused")
	long := setest.Header(1, enough)
	copy(long[12:], []byte{0, 0, 0x20, 1}) // one byte more than a header may have
	write := func(b []byte) func(context.Context, pvimg.Parts, string) error {
		return func(_ context.Context, _ pvimg.Parts, out string) error { return os.WriteFile(out, b, 0o600) }
	}
	for name, tc := range map[string]struct {
		create func(context.Context, pvimg.Parts, string) error
		want   error
		text   string
	}{
		"the tool fails": {func(context.Context, pvimg.Parts, string) error { return refused }, refused, ""},
		"it wrote none":  {func(context.Context, pvimg.Parts, string) error { return nil }, os.ErrNotExist, image.SEFile},
		"an empty one":   {write(nil), se.ErrHeader, "0 bytes"},
		"no header":      {write(make([]byte, 1<<16)), se.ErrHeader, "none of the pages"},
		"long header":    {write(setest.Image(long)), se.ErrHeader, "8193"},
		"cut header":     {write(setest.Image(long)[:2*setest.PageSize+600]), se.ErrHeader, "at 0x2000"},
		"two headers":    {write(append(setest.Image(setest.Header(1, enough)), setest.Image(setest.Header(2, enough))...)), se.ErrHeader, "second"},
		"too few pages":  {sealer(setest.Header(1, 3)), image.ErrInput, "3 pages"},
	} {
		m, err := image.Seal(t.Context(), dir, tc.create, quiet)
		if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
		if m, err := image.Open(dir); err != nil || !slices.Equal(m.Outputs, parts.Outputs) {
			t.Errorf("%s: what is left is %+v, %v", name, m, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".se-*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	if err := os.WriteFile(filepath.Join(dir, image.InitrdFile), []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := image.Seal(t.Context(), dir, sealer(setest.Header(1, enough)), quiet); !errors.Is(err, image.ErrDigest) {
		t.Errorf("parts that were changed: %v", err)
	}
	other, _ := build(t, inputs(t, false))
	if _, err := image.Seal(t.Context(), other, sealer(setest.Header(1, enough)), quiet); !errors.Is(err, image.ErrInput) {
		t.Errorf("an image of another profile: %v", err)
	}
}

func TestAProgramForAnotherProcessorIsRefused(t *testing.T) {
	t.Parallel()
	native := binarytest.Small(t)
	disk := onDisk(t, false)
	disk.Binary, disk.First = native, binarytest.ForZ(t)
	wrong := inputs(t, false)
	wrong.Binary = binarytest.ForZ(t)
	for name, tc := range map[string]struct {
		in   image.Inputs
		want string
	}{
		"x86 in an image for Z":    {secureExecution(t, native, false), "EM_X86_64"},
		"Z in an image for x86":    {wrong, "EM_S390"},
		"Z in front of an x86 one": {disk, "first"},
	} {
		dir := filepath.Join(t.TempDir(), "out")
		if _, err := image.Build(t.Context(), tc.in, dir, quiet); !errors.Is(err, image.ErrInput) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), tc.in.Profile.Arch) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNobodyOpensAShellThroughAnEncryptedCommandLine(t *testing.T) {
	t.Parallel()
	for _, word := range []string{"agent.debug_console", "agent.debug_console_vport=1026", "quiet agent.debug_console", `"agent.debug_console"`, "a\nb", "a\x00"} {
		in := secureExecution(t, "unused", false)
		in.Append = []string{word}
		if _, err := image.Build(t.Context(), in, filepath.Join(t.TempDir(), "out"), quiet); !errors.Is(err, image.ErrInput) || !strings.Contains(err.Error(), "encrypted with the image") {
			t.Errorf("%q: %v", word, err)
		}
	}
}
