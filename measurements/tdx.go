// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"cocoon/measurements/predict"
	"cocoon/measurements/report"
)

type tdxFlags struct {
	outputFlags
	launchFlags
	edk2, qemu int
	memory     uint64
	twoPass    bool
}

func tdxCommand() *cobra.Command {
	var f tdxFlags
	c := &cobra.Command{
		Use:   "tdx IMAGE --firmware FILE --edk2 YYYYMM --qemu VERSION",
		Short: "MRTD, RTMR1 and RTMR2 of Intel TDX",
		Args:  cobra.ExactArgs(1),
	}
	c.RunE = f.run(f.predict)
	fl := c.Flags()
	f.add(fl)
	f.addLaunch(fl)
	fl.IntVar(&f.edk2, "edk2", 0, "release of edk2 that the firmware is built from, such as 202511 (required)")
	fl.IntVar(&f.qemu, "qemu", 0, "release of QEMU, such as 1100 for 11.0 (required)")
	fl.Uint64Var(&f.memory, "memory", 0, "memory of the guest in MiB: needed for releases of QEMU that write addresses into the kernel's header")
	fl.BoolVar(&f.twoPass, "two-pass", false, "MRTD as the stacks from before Linux had TDX measured it")
	return c
}

func (f *tdxFlags) predict(dir string) (*report.Report, error) {
	g, err := f.open(dir, "tdx")
	if err != nil {
		return nil, err
	}
	o := predict.TDX{Launch: f.launch, EDK2: f.edk2, QEMU: f.qemu, Memory: f.memory, TwoPass: f.twoPass}
	if o.Document, err = predict.Document(f.initdata); err != nil {
		return nil, err
	}
	return reportOf(g)(g.TDX(o))
}
