// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package predict

import (
	"crypto/sha512"
	"fmt"

	"cocoon/internal/initdata"
	"cocoon/measurements/tdx"
	"cocoon/mkimage/image"
)

// maxMemory is in MiB: what 52 bits address.
const maxMemory = 1 << 32

// TDX says how a guest of TDX is launched.
type TDX struct {
	Launch
	// EDK2 is the release that the firmware is of, such as 202511, and QEMU that of
	// the emulator, such as 1100 for 11.0.
	EDK2, QEMU int
	// Memory is the guest's in MiB. It is needed for releases of QEMU that write
	// addresses into the kernel's header.
	Memory uint64
	// TwoPass asks for MRTD as stacks from before Linux had TDX measured it.
	TwoPass bool
	// Document is the owner's, nil if there is none.
	Document *initdata.Document
}

// TDX returns a result for each command line. Without a firmware there is no
// MRTD among its values.
func (g *Guest) TDX(o TDX) ([]Result, error) {
	lines, err := o.Lines(g.Image)
	if err != nil {
		return nil, err
	}
	if o.Memory > maxMemory {
		return nil, fmt.Errorf("memory of %d MiB, at most %d", o.Memory, maxMemory)
	}
	b := tdx.Boot{EDK2: o.EDK2, QEMU: o.QEMU, Memory: o.Memory << 20}
	if b.Kernel, err = g.Output(image.KernelName); err != nil {
		return nil, err
	}
	initrd, err := g.Output(image.InitrdName)
	if err != nil {
		return nil, err
	}
	digest := tdx.Register(sha512.Sum384(initrd))
	b.Initrd, b.InitrdSize = &digest, uint64(len(initrd))
	var all []Result
	for _, l := range lines {
		r := Result{Line: l, With: o.with()}
		if err := g.mrtd(&r, o.TwoPass); err != nil {
			return nil, err
		}
		b.Cmdline = l.Cmdline
		if err := registers(&r, b); err != nil {
			return nil, err
		}
		r.confirm(o.Document, ConfigID, ConfigIDSize)
		all = append(all, r)
	}
	return all, nil
}

func (o TDX) with() []Pair {
	with := []Pair{{"edk2", fmt.Sprint(o.EDK2)}, {"qemu", fmt.Sprintf("%d.%d", o.QEMU/100, o.QEMU%100)}}
	if o.Memory != 0 {
		with = append(with, Pair{"memory", fmt.Sprintf("%d MiB", o.Memory)})
	}
	return with
}

// mrtd adds the register of the firmware, if one was loaded.
func (g *Guest) mrtd(r *Result, twoPass bool) error {
	if g.ovmf == nil {
		return nil
	}
	measure := tdx.MRTD
	if twoPass {
		measure = tdx.MRTDTwoPass
	}
	value, err := measure(g.ovmf)
	if err != nil {
		return fmt.Errorf("firmware %q: %w", g.Firmware.File, err)
	}
	text := fmt.Sprintf("%x", value)
	r.Values = append(r.Values, Pair{"mr_td", text})
	r.Steps = append(r.Steps, Step{Of: "mr_td", Input: "firmware", What: "pages of the firmware that the TDX module measures", Digest: text})
	return nil
}

// registers are those of the kernel, and of the command line and the initrd.
func registers(r *Result, b tdx.Boot) error {
	for _, reg := range []struct {
		name string
		of   func() (tdx.Register, []tdx.Step, error)
	}{{"rtmr_1", b.RTMR1}, {"rtmr_2", b.RTMR2}} {
		value, steps, err := reg.of()
		if err != nil {
			return err
		}
		r.Values = append(r.Values, Pair{reg.name, fmt.Sprintf("%x", value)})
		for _, s := range steps {
			r.Steps = append(r.Steps, Step{Of: reg.name, Input: s.Input, What: s.What, Digest: fmt.Sprintf("%x", s.Digest)})
		}
	}
	return nil
}
