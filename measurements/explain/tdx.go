// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"

	"cocoon/internal/initdata"
	"cocoon/measurements/pe/direct"
	"cocoon/measurements/predict"
	"cocoon/measurements/tdx"
	"cocoon/mkimage/image"
)

// release is one of edk2 and one of QEMU.
type release struct{ edk2, qemu int }

// releases are those that differ in what they measure, the newest first.
func releases() []release {
	return []release{{202508, 1100}, {202411, 1100}, {202402, 1100}, {202508, 900}, {202502, 900}, {202411, 900}, {202402, 900}}
}

func (a *Answer) tdx(r *Reported, in *Inputs) error {
	log, err := replay(r)
	if err != nil {
		return err
	}
	if err := a.mrtd(r, in); err != nil {
		return err
	}
	kernels, lines, err := in.boots()
	if err != nil {
		return err
	}
	err = a.find(r, "rtmr_1", values(kernels, tdx.Boot.RTMR1), join(log.first(1, kernels[0], tdx.Boot.RTMR1),
		[]string{"kernel of another image", "kernel changed by QEMU for a size of memory that was not tried: --memory"})...)
	if err != nil {
		return err
	}
	err = a.find(r, "rtmr_2", values(lines, tdx.Boot.RTMR2), join(log.first(2, lines[0], tdx.Boot.RTMR2),
		[]string{"initramfs of another image", "a command line with words that were not tried: --kernel-params, --cmdline"})...)
	if err != nil {
		return err
	}
	a.logged(r, log)
	return a.confirm(r, predict.ConfigID, in, func(d *initdata.Document) (string, error) {
		return hex.EncodeToString(initdata.Fit(d.Digest(), predict.ConfigIDSize)), nil
	})
}

// mrtd is about the firmware alone.
func (a *Answer) mrtd(r *Reported, in *Inputs) error {
	if len(in.Firmware) == 0 {
		a.Findings = append(a.Findings, Finding{
			Register: "mr_td", Value: r.Registers["mr_td"], Verdict: Unchecked, Suspects: []string{"it is of the firmware: name it with --firmware"},
		})
		return nil
	}
	return a.find(r, "mr_td", func(yield func(candidate, error) bool) {
		for n, f := range in.Firmware {
			because := instead("firmware", n, f.Name, in.Firmware[0].Name)
			for _, twoPass := range []bool{false, true} {
				value, _, err := tdx.MRTDSteps(f.Image, twoPass)
				if err != nil {
					break // a firmware without metadata for TDX has no MRTD
				}
				c := candidate{value: hex.EncodeToString(value[:]), with: []predict.Pair{{Name: "firmware", Value: f.Name}}, because: because}
				if twoPass {
					c.because = join(because, []string{"measured as by stacks from before Linux had TDX"})
				}
				if !yield(c, nil) {
					return
				}
			}
		}
	}, "another firmware")
}

// boot is a launch whose registers are tried.
type boot struct {
	tdx.Boot
	with    []predict.Pair
	because []string
}

// boots are all images: under all releases, for the register of the kernel, which
// the command line does not change, and under all command lines, for that of the
// line, which the size of memory does not change.
func (in *Inputs) boots() (kernels, lines []boot, err error) {
	for i, g := range in.Images {
		b := boot{with: []predict.Pair{{Name: "image", Value: in.Names[i]}}, because: instead("image", i, in.Names[i], in.Names[0])}
		if b.Kernel, err = g.Output(image.KernelName); err != nil {
			return nil, nil, err
		}
		initrd, err := g.Output(image.InitrdName)
		if err != nil {
			return nil, nil, err
		}
		digest := tdx.Register(sha512.Sum384(initrd))
		b.Initrd, b.InitrdSize = &digest, uint64(len(initrd))
		for _, rel := range releases() {
			kernels = append(kernels, in.withMemory(b.of(rel))...)
		}
		all, err := in.lines(g)
		if err != nil {
			return nil, nil, err
		}
		for _, l := range all {
			for _, rel := range releases()[:3] {
				c := b.of(rel)
				c.Cmdline, c.because = l.Cmdline, join(b.because, l.because)
				c.with = append(c.with, predict.Pair{Name: "shim", Value: l.Shim})
				lines = append(lines, c)
			}
		}
	}
	return kernels, lines, nil
}

// of is the boot under a release.
func (b boot) of(rel release) boot {
	b.EDK2, b.QEMU = rel.edk2, rel.qemu
	b.with = append(b.with[:len(b.with):len(b.with)], predict.Pair{Name: "edk2", Value: fmt.Sprint(rel.edk2)},
		predict.Pair{Name: "qemu", Value: fmt.Sprintf("%d.%d", rel.qemu/100, rel.qemu%100)})
	return b
}

// withMemory is a boot for each size of memory, if that counts.
func (in *Inputs) withMemory(b boot) []boot {
	if b.QEMU >= 1100 {
		return []boot{b}
	}
	var all []boot
	for _, m := range in.Memory {
		c := b
		c.Memory = m << 20
		c.with = append(b.with[:len(b.with):len(b.with)], predict.Pair{Name: "memory", Value: fmt.Sprintf("%d MiB", m)})
		all = append(all, c)
	}
	return all
}

// values are those of one register. Kernels that QEMU cannot have changed are
// passed over.
func values(boots []boot, of func(tdx.Boot) (tdx.Register, []tdx.Step, error)) iter.Seq2[candidate, error] {
	return func(yield func(candidate, error) bool) {
		for _, b := range boots {
			value, _, err := of(b.Boot)
			if errors.Is(err, direct.ErrConfig) {
				continue
			}
			if err != nil {
				yield(candidate{}, err)
				return
			}
			if !yield(candidate{value: hex.EncodeToString(value[:]), with: b.with, because: b.because}, nil) {
				return
			}
		}
	}
}
