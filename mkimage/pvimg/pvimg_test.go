// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package pvimg_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoon/mkimage/pvimg"
	"cocoon/mkimage/pvimg/pvimgtest"
)

func TestMain(m *testing.M) {
	pvimgtest.Main()
	os.Exit(m.Run())
}

// files makes files of a size in a new directory.
func files(t *testing.T, sizes map[string]int) string {
	t.Helper()
	dir := t.TempDir()
	for name, size := range sizes {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func inputs(t *testing.T) (string, pvimg.Options, pvimg.Parts) {
	t.Helper()
	dir := files(t, map[string]int{
		"hkd1": 1, "hkd2": 1, "sign": 1, "ca": 1, "crl": 1, "root": 1, "cck": 32, "hdr": 32, "img": 64, "vmlinuz": 1, "initrd": 1, "cmdline": 1, "comma,name": 1,
	})
	in := func(name string) string { return filepath.Join(dir, name) }
	return dir, pvimg.Options{HostKeys: []string{in("hkd1"), in("hkd2")}, Certs: []string{in("sign"), in("ca")}},
		pvimg.Parts{Kernel: in("vmlinuz"), Initrd: in("initrd"), Cmdline: in("cmdline")}
}

func find(t *testing.T, fake pvimgtest.Tool) *pvimg.Tool {
	t.Helper()
	tool, err := pvimg.Find(fake.LookPath)
	if err != nil {
		t.Fatal(err)
	}
	return tool
}

func TestTheToolIsToldEverything(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string][]string{"pvimg": {"--hdr-key", "--image-key"}, "genprotimg": {"--x-header-key", "--x-comp-key"}} {
		dir, o, p := inputs(t)
		o.CRLs, o.RootCA, o.Offline = []string{dir + "/crl"}, dir+"/root", true
		o.CommKey, o.HeaderKey, o.ImageKey = dir+"/cck", dir+"/hdr", dir+"/img"
		fake := pvimgtest.Install(t, name, []byte("the image"))
		if err := o.Check(); err != nil {
			t.Fatal(err)
		}
		if err := find(t, fake).Create(t.Context(), &o, p, dir+"/out"); err != nil {
			t.Fatal(err)
		}
		want := []string{
			"--offline", "--host-key-document=hkd1", "--host-key-document=hkd2", "--cert=sign", "--cert=ca", "--crl=crl", "--root-ca=root", "--comm-key=cck",
			keys[0] + "=hdr", keys[1] + "=img", "--image=vmlinuz", "--ramdisk=initrd", "--parmfile=cmdline", "--output=out",
		}
		if name == "pvimg" {
			want = append([]string{"create"}, want...)
		}
		got := fake.Arguments(t)
		for i := range got {
			got[i] = strings.Replace(got[i], "="+dir+"/", "=", 1)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
		if b, err := os.ReadFile(dir + "/out"); err != nil || string(b) != "the image" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func TestVerificationIsLeftOutOnlyIfThatIsSaid(t *testing.T) {
	t.Parallel()
	dir, o, p := inputs(t)
	fake := pvimgtest.Install(t, "pvimg", nil)
	for no, want := range map[bool]bool{false: false, true: true} {
		if o.NoVerify = no; no {
			o.Certs = nil
		}
		if err := errors.Join(o.Check(), find(t, fake).Create(t.Context(), &o, p, filepath.Join(dir, "out"+map[bool]string{true: "2"}[no]))); err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(fake.Arguments(t), "--no-verify"); got != want {
			t.Errorf("told %t: %q", no, fake.Arguments(t))
		}
	}
}

// A name that begins with a dash is a name.
func TestANameIsNoOption(t *testing.T) {
	dir, o, p := inputs(t)
	t.Chdir(dir)
	if err := os.WriteFile("--overwrite", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o.HostKeys, o.Certs = []string{"--overwrite"}, []string{"ca"}
	fake := pvimgtest.Install(t, "pvimg", nil)
	if err := errors.Join(o.Check(), find(t, fake).Create(t.Context(), &o, p, "out")); err != nil {
		t.Fatal(err)
	}
	if got := fake.Arguments(t); slices.Contains(got, "--overwrite") || !slices.Contains(got, "--host-key-document="+dir+"/--overwrite") {
		t.Errorf("%q", got)
	}
}

func TestPvimgIsPreferredAndOneOfThemIsNeeded(t *testing.T) {
	t.Parallel()
	lost := errors.New("not there")
	if tool, err := pvimg.Find(func(string) (string, error) { return "", lost }); !errors.Is(err, pvimg.ErrNoTool) || !errors.Is(err, lost) {
		t.Errorf("%+v, %v", tool, err)
	}
	var asked []string
	if _, err := pvimg.Find(func(name string) (string, error) { asked = append(asked, name); return "/" + name, nil }); err != nil || !slices.Equal(asked, []string{"pvimg"}) {
		t.Errorf("asked for %q, %v", asked, err)
	}
}

func TestWhatTheToolSaysIsInTheError(t *testing.T) {
	t.Parallel()
	dir, o, p := inputs(t)
	fake := pvimgtest.Install(t, "pvimg", nil)
	fake.Complain(t, "host-key document is revoked")
	if err := find(t, fake).Create(t.Context(), &o, p, dir+"/out"); err == nil || !strings.Contains(err.Error(), "host-key document is revoked") || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := find(t, fake).Create(ctx, &o, p, dir+"/out"); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

func TestOptionsThatMakeNoImageAreRefused(t *testing.T) {
	t.Parallel()
	dir, good, _ := inputs(t)
	for name, tc := range map[string]struct {
		change func(*pvimg.Options)
		want   error
	}{
		"nothing":                 {func(o *pvimg.Options) { *o = pvimg.Options{} }, pvimg.ErrOptions},
		"no host key":             {func(o *pvimg.Options) { o.HostKeys = nil }, pvimg.ErrOptions},
		"no verification":         {func(o *pvimg.Options) { o.Certs = nil }, pvimg.ErrOptions},
		"a root alone":            {func(o *pvimg.Options) { o.Certs, o.RootCA = nil, dir+"/root" }, pvimg.ErrOptions},
		"both ways":               {func(o *pvimg.Options) { o.NoVerify = true }, pvimg.ErrOptions},
		"unverified with a list":  {func(o *pvimg.Options) { o.NoVerify, o.Certs, o.CRLs = true, nil, []string{dir + "/crl"} }, pvimg.ErrOptions},
		"unverified with a root":  {func(o *pvimg.Options) { o.NoVerify, o.Certs, o.RootCA = true, nil, dir+"/root" }, pvimg.ErrOptions},
		"unverified and offline":  {func(o *pvimg.Options) { o.NoVerify, o.Certs, o.Offline = true, nil, true }, pvimg.ErrOptions},
		"offline without lists":   {func(o *pvimg.Options) { o.Offline = true }, pvimg.ErrOptions},
		"host key that is absent": {func(o *pvimg.Options) { o.HostKeys = []string{dir + "/none"} }, os.ErrNotExist},
		"host key without a name": {func(o *pvimg.Options) { o.HostKeys = []string{""} }, pvimg.ErrOptions},
		"certificate is absent":   {func(o *pvimg.Options) { o.Certs[1] = dir + "/none" }, os.ErrNotExist},
		"a directory":             {func(o *pvimg.Options) { o.Certs[1] = dir }, pvimg.ErrOptions},
		"a comma in a name":       {func(o *pvimg.Options) { o.HostKeys = []string{dir + "/comma,name"} }, pvimg.ErrOptions},
		"short communication key": {func(o *pvimg.Options) { o.CommKey = dir + "/root" }, pvimg.ErrOptions},
		"long header key":         {func(o *pvimg.Options) { o.HeaderKey = dir + "/img" }, pvimg.ErrOptions},
		"short image key":         {func(o *pvimg.Options) { o.ImageKey = dir + "/cck" }, pvimg.ErrOptions},
	} {
		o := good
		o.Certs = slices.Clone(good.Certs)
		tc.change(&o)
		if err := o.Check(); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
}
