// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"cocoon/measurements/predict"
	"cocoon/measurements/report"
	"cocoon/measurements/snp"
)

// processorFlags say what processors a guest has.
type processorFlags struct {
	model     string
	signature uint32
	features  []uint
	vmm       string
}

func (p *processorFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&p.model, "cpu", predict.DefaultModel, "QEMU's processor model; the shims have it written down")
	fl.Uint32Var(&p.signature, "cpu-signature", 0, "the processor's signature as in CPUID, such as 0x800f12, instead of a model's")
	fl.UintSliceVar(&p.features, "features", []uint{1}, "SEV features of the processors: 1, or 33 where the host's kernel has DebugSwap on")
	fl.StringVar(&p.vmm, "vmm", string(snp.QEMU), "QEMU, ec2 or gce")
	c.MarkFlagsMutuallyExclusive("cpu", "cpu-signature")
}

// apply sets the options that the flags are about.
func (p *processorFlags) apply(o *predict.SNP) (err error) {
	o.VMM, o.Signature = snp.VMM(p.vmm), p.signature
	for _, features := range p.features {
		o.Features = append(o.Features, uint64(features))
	}
	if o.Signature == 0 {
		o.Signature, err = snp.SignatureOf(p.model)
	}
	return err
}

type snpFlags struct {
	outputFlags
	launchFlags
	processorFlags
	cpus int
}

func snpCommand() *cobra.Command {
	var f snpFlags
	c := &cobra.Command{
		Use:   "snp IMAGE --firmware FILE",
		Short: "launch digests of AMD SEV-SNP, for each number of processors",
		Args:  cobra.ExactArgs(1),
	}
	c.RunE = f.run(f.predict)
	f.outputFlags.add(c.Flags())
	f.addLaunch(c.Flags())
	f.processorFlags.add(c)
	c.Flags().IntVar(&f.cpus, "vcpus", predict.DefaultVCPUs, "the largest number of processors")
	return c
}

func (f *snpFlags) predict(dir string) (*report.Report, error) {
	g, err := f.open(dir, "snp")
	if err != nil {
		return nil, err
	}
	o := predict.SNP{Launch: f.launch, VCPUs: f.cpus}
	if err := f.apply(&o); err != nil {
		return nil, err
	}
	if o.Document, err = predict.Document(f.initdata); err != nil {
		return nil, err
	}
	return reportOf(g)(g.SNP(o))
}
