// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package selftest

import (
	"bytes"
	"strings"
	"testing"

	"cocoon/measurements/ovmf/ovmftest"
	"cocoon/mkimage/format/uki"
	"cocoon/mkimage/format/uki/ukitest"
)

func TestPredictionsAreThoseOfOtherPrograms(t *testing.T) {
	t.Parallel()
	checks, err := Run()
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, c := range checks {
		kinds[c.Name[:3]]++
		if !c.OK() || len(c.Want) < 64 || c.Origin == "" {
			t.Errorf("%s: got %q, %q has %q", c.Name, c.Got, c.Origin, c.Want)
		}
	}
	if len(checks) < 36 || kinds["SNP"] < 12 || kinds["TDX"] < 12 || kinds["TPM"] < 4 || kinds["dm-"] < 6 {
		t.Errorf("%d checks: %v", len(checks), kinds)
	}
}

func TestAnotherFileIsFoundOut(t *testing.T) {
	t.Parallel()
	line := "console=hvc0 panic=-1"
	for name, v := range map[string]vector{
		"firmware": tdxVector{EDK2: 202511, QEMU: 1100, Cmdline: line, MRTD: "00"},
		"kernel":   snpVector{CPU: "EPYC-v4", VMM: "QEMU", Features: 1, VCPUs: 1, Cmdline: &line, Digest: "00"},
		"image":    vtpmVector{Stub: 252, Registers: map[int]string{4: "00", 11: "00"}},
	} {
		in, err := load()
		if err != nil {
			t.Fatal(err)
		}
		before, err := v.predict(in)
		if err != nil {
			t.Fatal(err)
		}
		in.firmware.Data[4096] ^= 1 // in the page that MRTD is extended with
		in.kernel[len(in.kernel)-1] ^= 1
		in.uki[0x400] ^= 1 // in the stub's text
		after, err := v.predict(in)
		if err != nil {
			t.Fatal(err)
		}
		if before[0].OK() || before[0].Got == after[0].Got {
			t.Errorf("%s: %+v, of another file %+v", name, before[0], after[0])
		}
	}
}

func TestAVectorThatCannotBePredictedIsAnError(t *testing.T) {
	t.Parallel()
	in, err := load()
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]vector{
		"model":     snpVector{CPU: "host", VMM: "QEMU", VCPUs: 1},
		"VMM":       snpVector{CPU: "EPYC-v4", VMM: "x", VCPUs: 1},
		"edk2":      tdxVector{EDK2: 1, QEMU: 1100},
		"stub":      vtpmVector{Stub: 1},
		"salt":      verityVector{Blocks: 1, BlockSize: 4096, Algorithm: "sha256", Salt: "x"},
		"algorithm": verityVector{Blocks: 1, BlockSize: 4096, Algorithm: "md5"},
		"initdata":  initdataVector{Document: "x"},
		"TPM":       initdataVector{Document: "algorithm = \"sha512\"\nversion = \"0.1.0\"\n[data]\n", PCR8: "00"},
	} {
		if checks, err := v.predict(in); err == nil {
			t.Errorf("%s: %+v", name, checks)
		}
	}
	g := group[vector]{Vectors: []vector{vtpmVector{Stub: 1}, vtpmVector{Stub: 252}}}
	if _, err := g.predict(in); err == nil || !strings.Contains(err.Error(), "Stub:1") {
		t.Errorf("group ends with %v", err)
	}
}

func TestFilesAreWhatTheTestPackagesMake(t *testing.T) {
	t.Parallel()
	kernel := ukitest.Program("a kernel that does nothing")
	image, err := uki.Write(ukitest.Program("a stub that does nothing"), []uki.Section{
		{Name: ".sdmagic", Data: []byte("#### LoaderInfo: systemd-stub 252.39-1 ####")},
		{Name: ".osrel", Data: []byte("ID=cocoon\n")}, {Name: ".cmdline", Data: []byte("console=hvc0 panic=-1")},
		{Name: ".initrd", Data: []byte(initrd)}, {Name: ".linux", Data: kernel},
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{"firmware.fd": ovmftest.Firmware(), "kernel.efi": kernel, "uki.efi": image} {
		if got, err := files.ReadFile("vectors/" + name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s differs (%v)", name, err)
		}
	}
}
