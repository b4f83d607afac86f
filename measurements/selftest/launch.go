// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package selftest

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"cocoon/measurements/snp"
	"cocoon/measurements/tdx"
	"cocoon/measurements/vtpm"
)

type snpVector struct {
	CPU      string  `json:"cpu"`
	VMM      string  `json:"vmm"`
	Features uint64  `json:"features"`
	VCPUs    int     `json:"vcpus"`
	Cmdline  *string `json:"cmdline"` // none: without a kernel
	Digest   string  `json:"digest"`
}

func (v snpVector) predict(in *inputs) ([]Check, error) {
	cfg := snp.Config{Firmware: in.firmware, VMM: snp.VMM(v.VMM), Features: v.Features}
	var err error
	if cfg.Signature, err = snp.SignatureOf(v.CPU); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("SNP launch digest: %d %s, features %#x, by %s", v.VCPUs, v.CPU, v.Features, v.VMM)
	if v.Cmdline != nil {
		cfg.Kernel = &snp.Kernel{Kernel: sha256.Sum256(in.kernel), Initrd: sha256.Sum256([]byte(initrd)), Cmdline: *v.Cmdline}
		name += fmt.Sprintf(", kernel with %q", *v.Cmdline)
	}
	all, _, err := snp.Launch(cfg, v.VCPUs)
	if err != nil {
		return nil, err
	}
	return []Check{{Name: name, Got: hex.EncodeToString(all[v.VCPUs-1][:]), Want: v.Digest}}, nil
}

type tdxVector struct {
	EDK2    int    `json:"edk2"`
	QEMU    int    `json:"qemu"`
	Cmdline string `json:"cmdline"`
	MRTD    string `json:"mr_td"`
	TwoPass string `json:"mr_td_two_pass"`
	RTMR1   string `json:"rtmr_1"`
	RTMR2   string `json:"rtmr_2"`
}

func (v tdxVector) predict(in *inputs) ([]Check, error) {
	digest := tdx.Register(sha512.Sum384([]byte(initrd)))
	b := tdx.Boot{Kernel: in.kernel, Initrd: &digest, InitrdSize: uint64(len(initrd)), Cmdline: v.Cmdline, EDK2: v.EDK2, QEMU: v.QEMU}
	var checks []Check
	for _, r := range []struct {
		name, want string
		of         func() (tdx.Register, error)
	}{
		{"TDX MRTD", v.MRTD, func() (tdx.Register, error) { return tdx.MRTD(in.firmware) }},
		{"TDX MRTD in two passes", v.TwoPass, func() (tdx.Register, error) { return tdx.MRTDTwoPass(in.firmware) }},
		{"TDX RTMR1", v.RTMR1, func() (tdx.Register, error) { r, _, err := b.RTMR1(); return r, err }},
		{"TDX RTMR2", v.RTMR2, func() (tdx.Register, error) { r, _, err := b.RTMR2(); return r, err }},
	} {
		got, err := r.of()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.name, err)
		}
		checks = append(checks, Check{Name: fmt.Sprintf("%s: edk2 %d, QEMU %d.%d", r.name, v.EDK2, v.QEMU/100, v.QEMU%100), Got: hex.EncodeToString(got[:]), Want: r.want})
	}
	return checks, nil
}

type vtpmVector struct {
	Stub      int            `json:"stub"`
	Registers map[int]string `json:"registers"`
}

func (v vtpmVector) predict(in *inputs) ([]Check, error) {
	got, _, err := vtpm.Predict(sha256.New, in.uki, v.Stub)
	if err != nil {
		return nil, err
	}
	var checks []Check
	for _, pcr := range slices.Sorted(maps.Keys(v.Registers)) {
		checks = append(checks, Check{Name: fmt.Sprintf("TPM PCR %d, SHA-256: stub %d", pcr, v.Stub), Got: hex.EncodeToString(got[pcr]), Want: v.Registers[pcr]})
	}
	return checks, nil
}
