// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha512"
	"fmt"

	"github.com/spf13/cobra"

	"cocoon/measurements/tdx"
	"cocoon/mkimage/image"
)

// maxMemory is in MiB: what 52 bits address.
const maxMemory = 1 << 32

// MRCONFIGID of a quote: the name of its reference value, and its size in bytes.
const (
	configID     = "mr_config_id"
	configIDSize = 48
)

type tdxFlags struct {
	input
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
	f.flags(fl)
	fl.IntVar(&f.edk2, "edk2", 0, "release of edk2 that the firmware is built from, such as 202511 (required)")
	fl.IntVar(&f.qemu, "qemu", 0, "release of QEMU, such as 1100 for 11.0 (required)")
	fl.Uint64Var(&f.memory, "memory", 0, "memory of the guest in MiB: needed for releases of QEMU that write addresses into the kernel's header")
	fl.BoolVar(&f.twoPass, "two-pass", false, "MRTD as the stacks from before Linux had TDX measured it")
	return c
}

func (f *tdxFlags) predict(dir string) (*report, error) {
	g, err := f.load(dir, "tdx")
	if err != nil {
		return nil, err
	}
	measure := tdx.MRTD
	if f.twoPass {
		measure = tdx.MRTDTwoPass
	}
	mrtd, err := measure(g.firmware)
	if err != nil {
		return nil, fmt.Errorf("firmware %q: %w", f.firmware, err)
	}
	if f.memory > maxMemory {
		return nil, fmt.Errorf("memory of %d MiB, at most %d", f.memory, maxMemory)
	}
	b := tdx.Boot{EDK2: f.edk2, QEMU: f.qemu, Memory: f.memory << 20}
	if b.Kernel, err = g.output(image.KernelName); err != nil {
		return nil, err
	}
	initrd, err := g.output(image.InitrdName)
	if err != nil {
		return nil, err
	}
	digest := tdx.Register(sha512.Sum384(initrd))
	b.Initrd, b.InitrdSize = &digest, uint64(len(initrd))
	out := g.report()
	for _, l := range g.lines {
		r, err := f.registers(b, l)
		if err != nil {
			return nil, err
		}
		r.Values = append([]pair{{"mr_td", fmt.Sprintf("%x", mrtd)}}, r.Values...)
		if f.explain {
			r.Steps = append([]step{{Of: "mr_td", Input: "firmware", What: "pages of the firmware that the TDX module measures", Digest: r.Values[0].Value}}, r.Steps...)
		}
		out.results = append(out.results, r)
	}
	return out, f.confirm(out, configID, configIDSize)
}

// registers are those that depend on the command line, and RTMR1.
func (f *tdxFlags) registers(b tdx.Boot, l line) (result, error) {
	r := result{line: l, With: []pair{{"edk2", fmt.Sprint(b.EDK2)}, {"qemu", fmt.Sprintf("%d.%d", b.QEMU/100, b.QEMU%100)}}}
	if f.memory != 0 {
		r.With = append(r.With, pair{"memory", fmt.Sprintf("%d MiB", f.memory)})
	}
	b.Cmdline = l.Cmdline
	for _, reg := range []struct {
		name string
		of   func() (tdx.Register, []tdx.Step, error)
	}{{"rtmr_1", b.RTMR1}, {"rtmr_2", b.RTMR2}} {
		value, steps, err := reg.of()
		if err != nil {
			return r, err
		}
		r.Values = append(r.Values, pair{reg.name, fmt.Sprintf("%x", value)})
		for _, s := range steps {
			if f.explain {
				r.Steps = append(r.Steps, step{Of: reg.name, Input: s.Input, What: s.What, Digest: fmt.Sprintf("%x", s.Digest)})
			}
		}
	}
	return r, nil
}
