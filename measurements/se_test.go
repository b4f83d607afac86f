// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/internal/sharedtest"
	"cocoon/measurements/se"
	"cocoon/measurements/se/setest"
	"cocoon/mkimage/image"
	"cocoon/mkimage/image/binarytest"
	"cocoon/mkimage/profile"
	"cocoon/mkimage/pvimg"
)

// seParts makes the parts of an image for Secure Execution, of this program as if
// it were one for IBM Z.
func seParts(t *testing.T) string {
	t.Helper()
	p, err := profile.Named("se")
	if err != nil {
		t.Fatal(err)
	}
	p.Modules, p.OptionalModules, p.Compress = []string{"a"}, nil, false
	in := t.TempDir()
	for name, data := range map[string][]byte{"6.12/modules.builtin": []byte("kernel/a.ko\n"), "vmlinuz": []byte("kernel")} {
		file := filepath.Join(in, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(t.TempDir(), "image")
	if _, err := image.Build(t.Context(), image.Inputs{Profile: p, Kernel: in + "/vmlinuz", Modules: in + "/6.12", Binary: binarytest.ForZ(t)}, dir, func(string, ...any) {}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, data []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestTheTagIsThatOfTheHeaderWhereverItLies(t *testing.T) {
	t.Parallel()
	header, tag := setest.Header(7, 1<<20), strings.Repeat("07", 16)
	dir := seParts(t)
	create := func(_ context.Context, _ pvimg.Parts, out string) error {
		return os.WriteFile(out, setest.Image(header), 0o600)
	}
	if _, err := image.Seal(t.Context(), dir, create, func(string, ...any) {}); err != nil {
		t.Fatal(err)
	}
	for name, of := range map[string]string{"image": dir, "header": write(t, header), "image of pvimg": write(t, setest.Image(header)), "kept header": dir + "/hdr.bin"} {
		var lists map[string][]string
		out, err := run(t, "se", of, "--format", "reference")
		if err := errors.Join(err, json.Unmarshal([]byte(out), &lists)); err != nil || len(lists) != 1 || len(lists["tag"]) != 1 || lists["tag"][0] != tag {
			t.Errorf("%s: %s, %v", name, out, err)
		}
	}
	out, err := run(t, "se", dir, "--explain")
	if err != nil || !strings.Contains(out, tag) || !strings.Contains(out, strings.Repeat("07", 64)) || !strings.Contains(out, "swiotlb=262144") {
		t.Errorf("%s, %v", out, err)
	}
}

func TestTheTagOfAHeaderOfS390ToolsIsPrinted(t *testing.T) {
	t.Parallel()
	out, err := run(t, "se", sharedtest.Path(t, "measure/se/secure_guest.hdr"))
	if err != nil || !strings.Contains(out, "92309d4589b9a85b427f8753171d1520") {
		t.Errorf("%s, %v", out, err)
	}
}

func TestWhatHasNoTagIsRefused(t *testing.T) {
	t.Parallel()
	other, _ := built(t, "snp")
	long := append(setest.Header(1, 1), 0)
	cut := setest.Header(1, 1)
	for name, tc := range map[string]struct {
		args []string
		want error
	}{
		"nothing":         {[]string{filepath.Join(t.TempDir(), "none")}, os.ErrNotExist},
		"empty directory": {[]string{t.TempDir()}, os.ErrNotExist},
		"parts alone":     {[]string{seParts(t)}, image.ErrUnsealed},
		"another TEE":     {[]string{other}, errFlags},
		"empty file":      {[]string{write(t, nil)}, se.ErrHeader},
		"longer header":   {[]string{write(t, long)}, se.ErrHeader},
		"cut header":      {[]string{write(t, cut[:len(cut)-1])}, se.ErrHeader},
		"no header in it": {[]string{write(t, make([]byte, 1<<16))}, se.ErrHeader},
		"page of a part":  {[]string{write(t, setest.Header(1, 1)), "--format", "html"}, errFlags},
		"initdata":        {[]string{write(t, setest.Header(1, 1)), "--initdata", "x"}, errFlags},
		"unknown format":  {[]string{write(t, cut), "--format", "xml"}, errFlags},
	} {
		if out, err := run(t, append([]string{"se"}, tc.args...)...); !errors.Is(err, tc.want) {
			t.Errorf("%s: %s, %v", name, out, err)
		}
	}
}
