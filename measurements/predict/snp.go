// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package predict

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"cocoon/internal/initdata"
	"cocoon/measurements/snp"
	"cocoon/mkimage/image"
	"cocoon/mkimage/manifest"
)

// What the shims have written down: the processors' model, and as many of them
// as are worth a prediction.
const (
	DefaultModel = "EPYC-v4"
	DefaultVCPUs = 32
)

// SNP says how a guest of SEV-SNP is launched.
type SNP struct {
	Launch
	// VCPUs is the largest number of processors.
	VCPUs int
	// Signature is the processors', see snp.SignatureOf.
	Signature uint32
	// Features are the sets of SEV features that processors may have.
	Features []uint64
	VMM      snp.VMM
	// Document is the owner's, nil if there is none.
	Document *initdata.Document
}

// SNP returns a result for each command line, set of features and number of
// processors. It needs a firmware.
func (g *Guest) SNP(o SNP) ([]Result, error) {
	if g.ovmf == nil {
		return nil, fmt.Errorf("%w: --firmware is required", ErrOptions)
	}
	lines, err := o.Lines(g.Image)
	if err != nil {
		return nil, err
	}
	kernel, err := g.Kernel()
	if err != nil {
		return nil, err
	}
	cfg := snp.Config{Firmware: g.ovmf, VMM: o.VMM, Signature: o.Signature, Kernel: kernel}
	var all []Result
	for _, l := range lines {
		kernel.Cmdline = l.Cmdline
		for _, features := range o.Features {
			cfg.Features = features
			results, err := launches(cfg, l, o)
			if err != nil {
				return nil, fmt.Errorf("launch with firmware %q: %w", g.Firmware.File, err)
			}
			all = append(all, results...)
		}
	}
	return all, nil
}

// launches returns a result for each number of processors.
func launches(cfg snp.Config, l Line, o SNP) ([]Result, error) {
	digests, steps, err := snp.Launch(cfg, o.VCPUs)
	if err != nil {
		return nil, err
	}
	all := make([]Result, len(digests))
	for i, d := range digests {
		r := &all[i]
		r.Line = l
		r.With = []Pair{{"vcpus", fmt.Sprint(i + 1)}, {"features", fmt.Sprintf("%#x", cfg.Features)}}
		r.Values = []Pair{{"snp_launch_measurement", fmt.Sprintf("%x", d)}}
		r.Steps = append(hashSteps(cfg.Kernel), launchSteps(steps[:len(steps)-len(digests)+i+1])...)
		r.confirm(o.Document, HostData, HostDataSize)
	}
	return all, nil
}

// Kernel are the digests of what QEMU loads, which Open has compared with the
// files.
func (g *Guest) Kernel() (*snp.Kernel, error) {
	var k snp.Kernel
	for name, to := range map[string]*[sha256.Size]byte{image.KernelName: &k.Kernel, image.InitrdName: &k.Initrd} {
		f, err := g.Image.Output(name)
		if err != nil {
			return nil, err
		}
		digest, err := hex.DecodeString(f.SHA256)
		if err != nil || len(digest) != len(to) {
			return nil, fmt.Errorf("%s: %w: sha256 %.80q", name, manifest.ErrInvalid, f.SHA256)
		}
		copy(to[:], digest)
	}
	return &k, nil
}

// hashSteps are what the page of hashes holds.
func hashSteps(k *snp.Kernel) []Step {
	line := sha256.Sum256([]byte(k.Cmdline + "\x00"))
	return []Step{
		{Of: "hashes", Input: "kernel", What: "kernel, SHA-256", Digest: fmt.Sprintf("%x", k.Kernel)},
		{Of: "hashes", Input: "initrd", What: "initrd, SHA-256", Digest: fmt.Sprintf("%x", k.Initrd)},
		{Of: "hashes", Input: "cmdline", What: "command line with a zero at its end, SHA-256", Digest: fmt.Sprintf("%x", line)},
	}
}

func launchSteps(steps []snp.Step) []Step {
	var out []Step
	for _, s := range steps {
		input := ""
		if strings.HasPrefix(s.What, "firmware") {
			input = "firmware"
		}
		out = append(out, Step{Of: "launch", Input: input, What: fmt.Sprintf("%s, %d pages at %#x", s.What, s.Pages, s.GPA), Digest: fmt.Sprintf("%x", s.Digest)})
	}
	return out
}
