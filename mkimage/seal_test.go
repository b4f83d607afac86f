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

	"cocoon/measurements/se"
	"cocoon/measurements/se/setest"
	"cocoon/mkimage/image"
	"cocoon/mkimage/image/binarytest"
	"cocoon/mkimage/manifest"
	"cocoon/mkimage/profile"
	"cocoon/mkimage/pvimg"
	"cocoon/mkimage/pvimg/pvimgtest"
	"cocoon/mkimage/release"
)

func TestMain(m *testing.M) {
	pvimgtest.Main()
	os.Exit(m.Run())
}

// partsOfZ are options of build for profile se, with a kernel that has every
// module built in.
func partsOfZ(t *testing.T, out string) []string {
	t.Helper()
	p, err := profile.Named("se")
	if err != nil {
		t.Fatal(err)
	}
	var builtin strings.Builder
	for _, m := range p.Wanted() {
		builtin.WriteString("kernel/" + m.Name + ".ko\n")
	}
	dir := t.TempDir()
	for name, data := range map[string][]byte{"6.12/modules.builtin": []byte(builtin.String()), "vmlinuz": []byte("kernel"), "HKD.crt": []byte("key"), "ca.crt": []byte("ca")} {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	return []string{"build", "--profile", "se", "--kernel", "vmlinuz", "--modules", "6.12", "--binary", binarytest.ForZ(t), "--out", out}
}

// path lets only this tool be found.
func path(t *testing.T, fake pvimgtest.Tool) { t.Setenv("PATH", fake.Dir) }

func TestBuildMakesTheImageByTheToolOfTheMachine(t *testing.T) {
	for _, tool := range []string{"pvimg", "genprotimg"} {
		t.Run(tool, func(t *testing.T) {
			dir := t.TempDir()
			args := append(partsOfZ(t, dir), "-k", "HKD.crt", "--cert", "ca.crt")
			fake := pvimgtest.Install(t, tool, setest.Image(setest.Header(7, 1<<20)))
			path(t, fake)
			out, err := run(t, args...)
			if err != nil || !strings.Contains(out, "  cocoon-se.img\n") || !strings.Contains(out, "  hdr.bin\n") {
				t.Fatalf("%q, %v", out, err)
			}
			if got := strings.Join(fake.Arguments(t), " "); !strings.Contains(got, "/HKD.crt --cert=/") || strings.Contains(got, "no-verify") || !strings.Contains(got, "--parmfile="+dir+"/cmdline") {
				t.Errorf("it was called with %s", got)
			}
			if tags := lists(t, dir)["tag"]; len(tags) != 1 || tags[0] != strings.Repeat("07", 16) {
				t.Errorf("reference values %q", tags)
			}
			text, err := run(t, "inspect", dir)
			if err != nil || !strings.Contains(text, "tag "+strings.Repeat("07", 16)+", 1048576 pages\nfor host key "+strings.Repeat("07", 32)+"\n") || !strings.Contains(text, "  init ") {
				t.Errorf("%s, %v", text, err)
			}
		})
	}
}

func TestWithoutAHostKeyThereAreThePartsAndHowToGoOn(t *testing.T) {
	dir := t.TempDir()
	args := partsOfZ(t, dir)
	t.Setenv("PATH", dir)
	if out, err := run(t, args...); err != nil || strings.Contains(out, "hdr.bin") {
		t.Fatalf("%q, %v", out, err)
	}
	if _, err := os.Stat(filepath.Join(dir, referenceFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("reference values of parts: %v", err)
	}
	notes, err := os.ReadFile(filepath.Join(dir, release.SealFile))
	if err != nil || !strings.Contains(string(notes), "mkimage seal DIR --image cocoon-se.img") {
		t.Errorf("%s, %v", notes, err)
	}
	if text, err := run(t, "inspect", dir); err != nil || !strings.Contains(text, release.SealFile) {
		t.Errorf("%s, %v", text, err)
	}
	if _, err := run(t, "boot", dir); !errors.Is(err, image.ErrInput) || !strings.Contains(err.Error(), "IBM Z") {
		t.Errorf("boot: %v", err)
	}
	// With one, and without a tool, the parts are there all the same.
	if _, err := run(t, append(args, "-k", "HKD.crt", "--se-no-verify")...); !errors.Is(err, pvimg.ErrNoTool) || !strings.Contains(err.Error(), release.SealFile) {
		t.Errorf("no tool: %v", err)
	}
	if _, err := image.Open(dir); err != nil {
		t.Error(err)
	}
}

func TestAnImageThatWasMadeElsewhereIsTaken(t *testing.T) {
	dir, again := t.TempDir(), t.TempDir()
	for _, out := range []string{dir, again} {
		if _, err := run(t, partsOfZ(t, out)...); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := run(t, "diff", dir, again); err != nil {
		t.Errorf("two builds of the parts: %s, %v", text, err)
	}
	for n, out := range []string{dir, again} {
		file := filepath.Join(t.TempDir(), "made")
		header := setest.Header(byte(n+1), 1<<20)
		if err := os.WriteFile(file, setest.Image(header), 0o600); err != nil {
			t.Fatal(err)
		}
		if text, err := run(t, "seal", out, "--image", file); err != nil || !strings.Contains(text, "  hdr.bin\n") {
			t.Fatalf("%s, %v", text, err)
		}
		if got, err := os.ReadFile(filepath.Join(out, image.SEHeaderFile)); err != nil || !bytes.Equal(got, header) {
			t.Errorf("header %x, %v", got, err)
		}
	}
	text, err := run(t, "diff", dir, again)
	if !errors.Is(err, errDiffer) || !strings.Contains(text, "tag: 0101") || !strings.Contains(text, "changes the tag of Secure Execution") || strings.Contains(text, "initrd") {
		t.Errorf("%s, %v", text, err)
	}
}

func TestSealingThatCannotBeDoneSaysWhy(t *testing.T) {
	dir, others := t.TempDir(), tinyImage(t, func(*manifest.Manifest) {})
	args := partsOfZ(t, dir)
	if _, err := run(t, args...); err != nil {
		t.Fatal(err)
	}
	fake := pvimgtest.Install(t, "pvimg", make([]byte, 1<<16))
	path(t, fake)
	for name, tc := range map[string]struct {
		args []string
		want error
	}{
		"nothing told":      {[]string{"seal", dir}, pvimg.ErrOptions},
		"no host key":       {[]string{"seal", dir, "--cert", "ca.crt"}, pvimg.ErrOptions},
		"no verification":   {[]string{"seal", dir, "-k", "HKD.crt"}, pvimg.ErrOptions},
		"absent host key":   {[]string{"seal", dir, "-k", "x.crt", "--se-no-verify"}, os.ErrNotExist},
		"both ways":         {[]string{"seal", dir, "-k", "HKD.crt", "--image", "x"}, image.ErrInput},
		"absent image":      {[]string{"seal", dir, "--image", "x"}, os.ErrNotExist},
		"no image":          {[]string{"seal", dir, "--image", "vmlinuz"}, se.ErrHeader},
		"no header":         {[]string{"seal", dir, "-k", "HKD.crt", "--se-no-verify"}, se.ErrHeader},
		"no parts":          {[]string{"seal", t.TempDir(), "--image", "vmlinuz"}, os.ErrNotExist},
		"parts of others":   {[]string{"seal", others, "--image", "vmlinuz"}, image.ErrInput},
		"for another build": {[]string{"build", "--profile", "dev", "--binary", "guest", "--out", dir, "-k", "HKD.crt"}, image.ErrInput},
		"build unverified":  {append(args, "-k", "HKD.crt"), pvimg.ErrOptions},
		"build for nobody":  {append(args, "--cert", "ca.crt"), pvimg.ErrOptions},
		"build with a key":  {append(args, "--cck", "ca.crt"), pvimg.ErrOptions},
	} {
		if out, err := run(t, tc.args...); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v; output %q", name, err, tc.want, out)
		}
	}
	fake.Complain(t, "certificate has expired")
	if _, err := run(t, "seal", dir, "-k", "HKD.crt", "--cert", "ca.crt"); err == nil || !strings.Contains(err.Error(), "certificate has expired") {
		t.Errorf("the tool fails: %v", err)
	}
	if _, err := image.Open(dir); err != nil {
		t.Errorf("the parts are gone: %v", err)
	}
}
