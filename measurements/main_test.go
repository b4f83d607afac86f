// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/measurements/ovmf"
	"cocoon/measurements/ovmf/ovmftest"
	"cocoon/measurements/snp"
	"cocoon/measurements/tdx"
	"cocoon/mkimage/image"
	"cocoon/mkimage/profile"
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

// program is the smallest kernel that firmware would hash.
func program() []byte {
	b := make([]byte, 0x200)
	copy(b, "MZ")
	b[0x3c] = 0x40
	copy(b[0x40:], "PE\x00\x00")
	b[0x54] = 240
	binary.LittleEndian.PutUint16(b[0x58:], 0x20b)
	binary.LittleEndian.PutUint32(b[0x58+60:], 0x200)
	return b
}

// built makes an image of a profile with such a kernel, and a firmware.
func built(t *testing.T, name string) (dir, firmware string) {
	t.Helper()
	in := t.TempDir()
	for file, content := range map[string][]byte{
		"vmlinuz": program(), "6.12/modules.builtin": []byte("kernel/a.ko\n"), "fw.fd": ovmftest.Firmware(),
	} {
		path := filepath.Join(in, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	p, err := profile.Named(name)
	if err != nil {
		t.Fatal(err)
	}
	p.Modules, p.OptionalModules = []string{"a"}, nil
	if p.Layout == profile.Extension {
		p.FirstModules = []string{"a"}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "image")
	if _, err := image.Build(t.Context(), image.Inputs{
		Profile: p, Kernel: in + "/vmlinuz", Modules: in + "/6.12", Binary: self, First: self,
	}, dir, func(string, ...any) {}); err != nil {
		t.Fatal(err)
	}
	return dir, in + "/fw.fd"
}

func digest(t *testing.T, file string) [sha256.Size]byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

func TestTheDigestIsOfTheImageUnderEachShim(t *testing.T) {
	t.Parallel()
	dir, firmware := built(t, "snp-verity")
	out, err := run(t, "snp", dir, "--firmware", firmware, "--vcpus", "2", "--format", "json", "--features", "1,33")
	if err != nil {
		t.Fatal(err)
	}
	var all []result
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 8 {
		t.Fatalf("%d results, %v", len(all), err)
	}
	i, err := ovmf.Parse(ovmftest.Firmware())
	if err != nil {
		t.Fatal(err)
	}
	for n, r := range all {
		if !strings.Contains(r.Cmdline, " kata.extension.cocoon.verity_params=root_hash=") || !strings.Contains(r.Cmdline, " oops=panic ") {
			t.Errorf("command line %q", r.Cmdline)
		}
		want, _, err := snp.Launch(snp.Config{
			Firmware: i, VMM: snp.QEMU, Signature: 0x800f12, Features: []uint64{1, 1, 33, 33}[n%4],
			Kernel: &snp.Kernel{Kernel: digest(t, dir+"/vmlinuz"), Initrd: digest(t, dir+"/initrd.img"), Cmdline: r.Cmdline},
		}, 2)
		if err != nil || r.Values[0].Value != fmt.Sprintf("%x", want[n%2]) {
			t.Errorf("result %d is %+v, want %x (%v)", n, r, want[n%2], err)
		}
	}
	if all[0].Shim != "go" || all[7].Shim != "rs" || all[0].Values[0] == all[4].Values[0] {
		t.Error("the shims do not differ")
	}
}

func TestReferenceValuesAreListsWithoutRepetition(t *testing.T) {
	t.Parallel()
	dir, firmware := built(t, "tdx")
	out, err := run(t, "tdx", dir, "--firmware", firmware, "--edk2", "202511", "--qemu", "1100", "--format", "reference")
	if err != nil {
		t.Fatal(err)
	}
	var lists map[string][]string
	if err := json.Unmarshal([]byte(out), &lists); err != nil {
		t.Fatal(err)
	}
	i, err := ovmf.Parse(ovmftest.Firmware())
	if err != nil {
		t.Fatal(err)
	}
	mrtd, err := tdx.MRTD(i)
	if err != nil || len(lists) != 3 || len(lists["mr_td"]) != 1 || lists["mr_td"][0] != fmt.Sprintf("%x", mrtd) || len(lists["rtmr_1"]) != 1 || len(lists["rtmr_2"]) != 2 {
		t.Errorf("%s (%v)", out, err)
	}
}

func TestATableForPeopleSaysHowItCameAbout(t *testing.T) {
	t.Parallel()
	dir, firmware := built(t, "tdx")
	out, err := run(t, "tdx", dir, "--firmware", firmware, "--edk2", "202511", "--qemu", "1002", "--explain", "--cmdline", "one two")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"given  edk2 202511  qemu 10.2  mr_td", "given: one two\n", `load options "initrd=initrd one two"`, "kernel, by Authenticode"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	dir, firmware = built(t, "snp")
	out, err = run(t, "snp", dir, "--firmware", firmware, "--vcpus", "1", "--shim", "go", "--explain", "--kernel-params", "agent.log=debug")
	if err != nil || !strings.Contains(out, "firmware, 2 pages at 0xffffe000") || !strings.Contains(out, "state of processor 0") || !strings.Contains(out, "net.ifnames=0 agent.log=debug\n") {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestWhatCannotBePredictedIsRefused(t *testing.T) {
	t.Parallel()
	dir, firmware := built(t, "snp")
	tdxDir, _ := built(t, "tdx")
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no image":         {[]string{"snp", t.TempDir(), "--firmware", firmware}, "manifest.json"},
		"no firmware":      {[]string{"snp", dir}, "--firmware is required"},
		"firmware absent":  {[]string{"snp", dir, "--firmware", dir + "/absent"}, "absent"},
		"no firmware it":   {[]string{"snp", dir, "--firmware", dir + "/kata.toml"}, "not of whole pages"},
		"other TEE":        {[]string{"tdx", dir, "--firmware", firmware, "--edk2", "202511", "--qemu", "1100"}, "not for \"tdx\""},
		"shim":             {[]string{"snp", dir, "--firmware", firmware, "--shim", "c"}, "want go or rs"},
		"no shim":          {[]string{"snp", dir, "--firmware", firmware, "--shim", ""}, "neither --shim"},
		"agent":            {[]string{"snp", dir, "--firmware", firmware, "--agent", "x"}, "NAME=VALUE"},
		"format":           {[]string{"snp", dir, "--firmware", firmware, "--format", "xml"}, "xml"},
		"model":            {[]string{"snp", dir, "--firmware", firmware, "--cpu", "host"}, "EPYC-Milan"},
		"processors":       {[]string{"snp", dir, "--firmware", firmware, "--vcpus", "0"}, "0 processors"},
		"VMM":              {[]string{"snp", dir, "--firmware", firmware, "--vmm", "x"}, "VMM"},
		"no releases":      {[]string{"tdx", tdxDir, "--firmware", firmware}, "edk2 0"},
		"much memory":      {[]string{"tdx", tdxDir, "--firmware", firmware, "--edk2", "202511", "--qemu", "702", "--memory", "4294967297"}, "at most 4294967296"},
		"nothing to patch": {[]string{"tdx", tdxDir, "--firmware", firmware, "--edk2", "202511", "--qemu", "702", "--memory", "2048"}, "no bzImage of Linux"},
		"QEMU patches":     {[]string{"tdx", tdxDir, "--firmware", firmware, "--edk2", "202511", "--qemu", "702"}, "QEMU changes the kernel"},
	} {
		if out, err := run(t, tc.args...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
