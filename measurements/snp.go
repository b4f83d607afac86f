// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"fmt"

	"github.com/spf13/cobra"

	"cocoon/measurements/snp"
	"cocoon/mkimage/image"
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
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := f.predict(args[0])
			if err != nil {
				return err
			}
			return f.write(cmd.OutOrStdout(), all)
		},
	}
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
func (f *snpFlags) predict(dir string) ([]result, error) {
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
	var all []result
	for _, l := range g.lines {
		for _, features := range f.features {
			kernel.Cmdline, cfg.Kernel, cfg.Features = l.Cmdline, kernel, uint64(features)
			digests, steps, err := snp.Launch(cfg, f.cpus)
			if err != nil {
				return nil, err
			}
			for i, d := range digests {
				r := result{line: l, With: []pair{{"vcpus", fmt.Sprint(i + 1)}, {"features", fmt.Sprintf("%#x", features)}}, Values: []pair{{"snp_launch_measurement", fmt.Sprintf("%x", d)}}}
				if f.explain {
					r.Steps = launchSteps(steps[:len(steps)-len(digests)+i+1])
				}
				all = append(all, r)
			}
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

func launchSteps(steps []snp.Step) []step {
	var out []step
	for _, s := range steps {
		out = append(out, step{Of: "launch", What: fmt.Sprintf("%s, %d pages at %#x", s.What, s.Pages, s.GPA), Digest: fmt.Sprintf("%x", s.Digest)})
	}
	return out
}
