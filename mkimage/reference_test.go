// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/measurements/ovmf/ovmftest"
	"cocoon/mkimage/format/uki"
	"cocoon/mkimage/format/uki/ukitest"
	"cocoon/mkimage/image/binarytest"
	"cocoon/mkimage/manifest"
	"cocoon/mkimage/profile"
)

// arguments are those by which an image of a profile is built, with a kernel that
// has all modules inside and a stub of a release.
func arguments(t *testing.T, name, stub string) (args []string, out string) {
	t.Helper()
	in := t.TempDir()
	p, err := profile.Named(name)
	if err != nil {
		t.Fatal(err)
	}
	var builtin strings.Builder
	for _, list := range [][]string{p.Modules, p.OptionalModules, p.FirstModules, p.FirstOptionalModules} {
		for _, m := range list {
			builtin.WriteString("kernel/" + m + ".ko\n")
		}
	}
	program, err := uki.Write(ukitest.Program("stub"), []uki.Section{{Name: ".sdmagic", Data: []byte("#### LoaderInfo: systemd-stub " + stub + " ####")}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string][]byte{
		"vmlinuz": ukitest.Program("kernel"), "6.12/modules.builtin": []byte(builtin.String()), "fw.fd": ovmftest.Firmware(), "stub.efi": program,
	} {
		path := filepath.Join(in, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	self := binarytest.Small(t)
	out = filepath.Join(t.TempDir(), "image")
	args = []string{"build", "--profile", name, "--kernel", in + "/vmlinuz", "--modules", in + "/6.12", "--binary", self, "--out", out}
	if p.Layout.OnDisk() {
		args = append(args, "--first", self)
	}
	if p.Layout == profile.Disk {
		args = append(args, "--stub", in+"/stub.efi")
	}
	return args, out
}

// lists reads the file beside an image.
func lists(t *testing.T, dir string) map[string][]string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, referenceFile))
	if err != nil {
		t.Fatal(err)
	}
	var l map[string][]string
	if err := json.Unmarshal(raw, &l); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestReferenceValuesLieBesideTheImage(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		firmware bool
		want     map[string]int // how many there are of each
	}{
		// Kernels are measured in two ways, command lines of two shims in two as well.
		"tdx": {true, map[string]int{"mr_td": 1, "rtmr_1": 2, "rtmr_2": 4}},
		"snp": {true, map[string]int{"snp_launch_measurement": 64}},
		"podvm-gcp": {false, map[string]int{
			"snp_pcr04": 1, "snp_pcr09": 1, "snp_pcr11": 1, "snp_pcr12": 1, "snp_pcr13": 1, "tdx_pcr04": 1, "tdx_pcr09": 1, "tdx_pcr11": 1,
			"tdx_pcr12": 1, "tdx_pcr13": 1, "tpm_pcr04": 1, "tpm_pcr09": 1, "tpm_pcr11": 1, "tpm_pcr12": 1, "tpm_pcr13": 1,
		}},
	} {
		args, dir := arguments(t, name, "252.39")
		if tc.firmware {
			args = append(args, "--firmware", filepath.Join(filepath.Dir(args[4]), "fw.fd"))
		}
		if out, err := run(t, args...); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		got := lists(t, dir)
		for value, list := range got {
			if len(list) != tc.want[value] {
				t.Errorf("%s: %d values of %s, want %d", name, len(list), value, tc.want[value])
			}
		}
		if len(got) != len(tc.want) {
			t.Errorf("%s: %d names, want %d", name, len(got), len(tc.want))
		}
	}
}

func TestAnImageWithoutItsFirmwareHasNoValueOfIt(t *testing.T) {
	t.Parallel()
	args, dir := arguments(t, "tdx", "")
	firmware := append(args, "--firmware", filepath.Join(filepath.Dir(args[4]), "fw.fd"))
	for _, a := range [][]string{firmware, args} {
		if _, err := run(t, a...); err != nil {
			t.Fatal(err)
		}
	}
	if got := lists(t, dir); len(got) != 2 || got["mr_td"] != nil {
		t.Errorf("values of an earlier image are left: %v", got)
	}
	args, dir = arguments(t, "snp", "")
	if _, err := run(t, args...); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, referenceFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("values of a launch whose firmware is not known: %v", err)
	}
}

func TestAnImageWhoseValuesCannotBeToldIsNone(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		profile, stub, file, want string
	}{
		"release of the stub": {"podvm-gcp", "1.1", "", "stub"},
		"no firmware it":      {"tdx", "", "vmlinuz", "vmlinuz"},
		"absent firmware":     {"tdx", "", "absent", "absent"},
		"firmware of a disk":  {"podvm-gcp", "252.39", "fw.fd", "--firmware is for images"},
		"firmware of dev":     {"dev", "", "fw.fd", "--firmware is for images"},
	} {
		args, dir := arguments(t, tc.profile, tc.stub)
		if tc.file != "" {
			args = append(args, "--firmware", filepath.Join(filepath.Dir(args[4]), tc.file))
		}
		if out, err := run(t, args...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if _, err := os.Stat(filepath.Join(dir, manifest.Name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: an image is left: %v", name, err)
		}
	}
}
