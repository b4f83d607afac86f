// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoon/measurements/ovmf"
	"cocoon/measurements/ovmf/ovmftest"
	"cocoon/measurements/predict"
	"cocoon/measurements/snp"
	"cocoon/measurements/tdx"
	"cocoon/measurements/vtpm"
	"cocoon/mkimage/format/uki"
	"cocoon/mkimage/format/uki/ukitest"
	"cocoon/mkimage/image"
	"cocoon/mkimage/image/binarytest"
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

// built makes an image of a profile with such a kernel, and a firmware.
func built(t *testing.T, name string) (dir, firmware string) {
	t.Helper()
	in := t.TempDir()
	for file, content := range map[string][]byte{
		"vmlinuz": ukitest.Program("kernel"), "6.12/modules.builtin": []byte("kernel/a.ko\n"), "fw.fd": ovmftest.Firmware(),
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
	p.Modules, p.OptionalModules, p.Compress = []string{"a"}, nil, false
	if p.Layout.OnDisk() {
		p.FirstModules, p.FirstOptionalModules = []string{"a"}, nil
	}
	stub := ""
	if p.Layout == profile.Disk {
		p.Disks, stub = []profile.Format{profile.Raw}, in+"/stub.efi"
		b, err := uki.Write(ukitest.Program("kernel"), []uki.Section{{Name: ".sdmagic", Data: []byte("#### LoaderInfo: systemd-stub 252.1 ####")}}, 0)
		if err := errors.Join(err, os.WriteFile(stub, b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	binary := binarytest.Small(t)
	dir = filepath.Join(t.TempDir(), "image")
	if _, err := image.Build(t.Context(), image.Inputs{
		Profile: p, Kernel: in + "/vmlinuz", Modules: in + "/6.12", Binary: binary, First: binary, Stub: stub,
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
	var all []predict.Result
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

func TestRegistersOfATPMFollowFromTheImageAlone(t *testing.T) {
	t.Parallel()
	dir, _ := built(t, "podvm")
	document := filepath.Join(t.TempDir(), "initdata.toml")
	if err := os.WriteFile(document, []byte("algorithm = \"sha256\"\nversion = \"0.1.0\"\n[data]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := run(t, "vtpm", dir, "--verifier", "tpm,snp", "--initdata", document, "--format", "reference")
	if err != nil {
		t.Fatal(err)
	}
	var got map[string][]string
	if err := json.Unmarshal([]byte(out), &got); err != nil || len(got) != 12 {
		t.Fatalf("%d names, %v:\n%s", len(got), err, out)
	}
	image, err := os.ReadFile(filepath.Join(dir, "cocoon.efi"))
	if err != nil {
		t.Fatal(err)
	}
	want, _, err := vtpm.Predict(sha256.New, image, 252)
	if err != nil {
		t.Fatal(err)
	}
	sum := digest(t, document)
	if want[8], _, err = vtpm.InitData(sum[:]); err != nil {
		t.Fatal(err)
	}
	for pcr, value := range want {
		for _, verifier := range []string{"tpm", "snp"} {
			name := fmt.Sprintf("%s_pcr%02d", verifier, pcr)
			if !slices.Equal(got[name], []string{hex.EncodeToString(value)}) {
				t.Errorf("%s is %q, want %x", name, got[name], value)
			}
		}
	}
	out, err = run(t, "vtpm", dir, "--explain", "--stub", "257")
	if err != nil || !strings.Contains(out, "stub 257") || !strings.Contains(out, "pcr11") || !strings.Contains(out, "content of .linux") {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestRegistersOfATPMThatCannotBePredictedAreRefused(t *testing.T) {
	t.Parallel()
	dir, _ := built(t, "podvm")
	snpDir, _ := built(t, "snp")
	bad := filepath.Join(t.TempDir(), "initdata.toml")
	if err := os.WriteFile(bad, []byte("algorithm = \"sha384\"\nversion = \"0.1.0\"\n[data]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"another image":   {[]string{"vtpm", snpDir}, "not for \"vtpm\""},
		"unknown stub":    {[]string{"vtpm", dir, "--stub", "1"}, "stub"},
		"verifier":        {[]string{"vtpm", dir, "--verifier", "cca"}, "cca"},
		"absent initdata": {[]string{"vtpm", dir, "--initdata", dir + "/absent"}, "absent"},
		"no initdata":     {[]string{"vtpm", dir, "--initdata", dir + "/manifest.json"}, "initdata"},
		"other digest":    {[]string{"vtpm", dir, "--initdata", bad}, "SHA-256 only"},
		"format":          {[]string{"vtpm", dir, "--format", "xml"}, "xml"},
	} {
		if out, err := run(t, tc.args...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func TestWhatCannotBePredictedIsRefused(t *testing.T) {
	t.Parallel()
	dir, firmware := built(t, "snp")
	tdxDir, _ := built(t, "tdx")
	unchecked := filepath.Join(t.TempDir(), "unchecked.fd")
	if err := os.WriteFile(unchecked, ovmftest.Describing(ovmftest.ResetEIP, 0, ovmftest.Section{0x800000, 0x1000, 1}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no image":         {[]string{"snp", t.TempDir(), "--firmware", firmware}, "manifest.json"},
		"no firmware":      {[]string{"snp", dir}, "--firmware is required"},
		"firmware absent":  {[]string{"snp", dir, "--firmware", dir + "/absent"}, "absent"},
		"no firmware it":   {[]string{"snp", dir, "--firmware", dir + "/kata.toml"}, "not of whole pages"},
		"loads any kernel": {[]string{"snp", dir, "--firmware", unchecked}, "unchecked.fd\": the firmware does not check"},
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
