// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"cocoon/measurements/predict"
	"cocoon/measurements/snp"
)

type snpFlags struct {
	launchFlags
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
	f.add(fl)
	fl.IntVar(&f.cpus, "vcpus", predict.DefaultVCPUs, "the largest number of processors")
	fl.StringVar(&f.model, "cpu", predict.DefaultModel, "QEMU's processor model; the shims have it written down")
	fl.UintSliceVar(&f.features, "features", []uint{1}, "SEV features of the processors: 1, or 33 where the host's kernel has DebugSwap on")
	fl.StringVar(&f.vmm, "vmm", string(snp.QEMU), "QEMU, ec2 or gce")
	return c
}

func (f *snpFlags) predict(dir string) (*report, error) {
	g, err := f.open(dir, "snp")
	if err != nil {
		return nil, err
	}
	o := predict.SNP{Launch: f.launch, VCPUs: f.cpus, VMM: snp.VMM(f.vmm)}
	for _, features := range f.features {
		o.Features = append(o.Features, uint64(features))
	}
	if o.Signature, err = snp.SignatureOf(f.model); err != nil {
		return nil, err
	}
	if o.Document, err = predict.Document(f.initdata); err != nil {
		return nil, err
	}
	return reportOf(g)(g.SNP(o))
}
