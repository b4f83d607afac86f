// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cocoon/measurements/snp"
	"cocoon/mkimage/image"
)

// HOST_DATA of a report: the name of its reference value, and its size in bytes.
const (
	hostData     = "snp_host_data"
	hostDataSize = 32
)

type snpFlags struct {
	input
	cpus     int
	model    string
	features []uint
	vmm      string
}

func snpCommand() *cobra.Command {
	var f snpFlags
	c := &cobra.Command{
		Use:   "snp IMAGE --firmware FILE",
		Short: "launch digests of AMD SEV-SNP, for each number of processors",
		Args:  cobra.ExactArgs(1),
	}
	c.RunE = f.run(f.predict)
	fl := c.Flags()
	f.flags(fl)
	fl.IntVar(&f.cpus, "vcpus", 32, "the largest number of processors")
	fl.StringVar(&f.model, "cpu", "EPYC-v4", "QEMU's processor model; the shims have it written down")
	fl.UintSliceVar(&f.features, "features", []uint{1}, "SEV features of the processors: 1, or 33 where the host's kernel has DebugSwap on")
	fl.StringVar(&f.vmm, "vmm", string(snp.QEMU), "QEMU, ec2 or gce")
	return c
}

// predict returns a result for each command line, set of features and number
// of processors.
func (f *snpFlags) predict(dir string) (*report, error) {
	g, err := f.load(dir, "snp")
	if err != nil {
		return nil, err
	}
	cfg := snp.Config{Firmware: g.firmware, VMM: snp.VMM(f.vmm)}
	if cfg.Signature, err = snp.SignatureOf(f.model); err != nil {
		return nil, err
	}
	kernel, err := g.kernel()
	if err != nil {
		return nil, err
	}
	out := g.report()
	for _, l := range g.lines {
		kernel.Cmdline, cfg.Kernel = l.Cmdline, kernel
		for _, features := range f.features {
			cfg.Features = uint64(features)
			all, err := f.launches(cfg, l)
			if err != nil {
				return nil, err
			}
			out.results = append(out.results, all...)
		}
	}
	return out, f.confirm(out, hostData, hostDataSize)
}

// launches returns a result for each number of processors.
func (f *snpFlags) launches(cfg snp.Config, l line) ([]result, error) {
	digests, steps, err := snp.Launch(cfg, f.cpus)
	if err != nil {
		return nil, err
	}
	all := make([]result, len(digests))
	for i, d := range digests {
		r := &all[i]
		r.line = l
		r.With = []pair{{"vcpus", fmt.Sprint(i + 1)}, {"features", fmt.Sprintf("%#x", cfg.Features)}}
		r.Values = []pair{{"snp_launch_measurement", fmt.Sprintf("%x", d)}}
		if f.explain {
			r.Steps = append(hashSteps(cfg.Kernel), launchSteps(steps[:len(steps)-len(digests)+i+1])...)
		}
	}
	return all, nil
}

// kernel are the digests of what QEMU loads.
func (g *guest) kernel() (*snp.Kernel, error) {
	var k snp.Kernel
	for name, to := range map[string]*[sha256.Size]byte{image.KernelName: &k.Kernel, image.InitrdName: &k.Initrd} {
		raw, err := g.output(name)
		if err != nil {
			return nil, err
		}
		*to = sha256.Sum256(raw)
	}
	return &k, nil
}

// hashSteps are what the page of hashes holds.
func hashSteps(k *snp.Kernel) []step {
	line := sha256.Sum256([]byte(k.Cmdline + "\x00"))
	return []step{
		{Of: "hashes", Input: "kernel", What: "kernel, SHA-256", Digest: fmt.Sprintf("%x", k.Kernel)},
		{Of: "hashes", Input: "initrd", What: "initrd, SHA-256", Digest: fmt.Sprintf("%x", k.Initrd)},
		{Of: "hashes", Input: "cmdline", What: "command line with a zero at its end, SHA-256", Digest: fmt.Sprintf("%x", line)},
	}
}

func launchSteps(steps []snp.Step) []step {
	var out []step
	for _, s := range steps {
		input := ""
		if strings.HasPrefix(s.What, "firmware") {
			input = "firmware"
		}
		out = append(out, step{Of: "launch", Input: input, What: fmt.Sprintf("%s, %d pages at %#x", s.What, s.Pages, s.GPA), Digest: fmt.Sprintf("%x", s.Digest)})
	}
	return out
}
