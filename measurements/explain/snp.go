// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/hex"
	"fmt"
	"iter"

	"cocoon/internal/initdata"
	"cocoon/measurements/predict"
	"cocoon/measurements/snp"
)

// features are the SEV features of the processors that the shims ask for.
const features = 1

func (a *Answer) snp(r *Reported, in *Inputs) error {
	for _, f := range in.Firmware {
		if !checks(f.Image) {
			a.Notes = append(a.Notes, fmt.Sprintf("firmware %s does not check the kernel and is passed over", f.Name))
		}
	}
	err := a.find(r, "snp_launch_measurement", in.launches(), "firmware", "kernel or initramfs of another image",
		"a command line with words that were not tried: --kernel-params, --cmdline", "more processors: --vcpus")
	if err != nil {
		return err
	}
	return a.confirm(r, predict.HostData, in, func(d *initdata.Document) (string, error) {
		return hex.EncodeToString(initdata.Fit(d.Digest(), predict.HostDataSize)), nil
	})
}

// launches are the digests of all images under all firmwares, command lines,
// models and features, for every number of processors.
func (in *Inputs) launches() iter.Seq2[candidate, error] {
	return func(yield func(candidate, error) bool) {
		for i, g := range in.Images {
			lines, err := in.lines(g)
			var kernel *snp.Kernel
			if err == nil {
				kernel, err = g.Kernel()
			}
			if err != nil {
				yield(candidate{}, err)
				return
			}
			for n, f := range in.Firmware {
				digest, err := snp.FirmwareDigest(f.Image)
				if err != nil {
					yield(candidate{}, fmt.Errorf("firmware %q: %w", f.Name, err))
					return
				}
				because := join(instead("image", i, in.Names[i], in.Names[0]), instead("firmware", n, f.Name, in.Firmware[0].Name))
				with := []predict.Pair{{Name: "image", Value: in.Names[i]}, {Name: "firmware", Value: f.Name}}
				for _, l := range lines {
					k := *kernel
					k.Cmdline = l.Cmdline
					cfg := snp.Config{Firmware: f.Image, FirmwareDigest: &digest, Kernel: &k, VMM: snp.QEMU}
					if !in.processors(cfg, join(because, l.because), append(with, predict.Pair{Name: "shim", Value: l.Shim}), yield) {
						return
					}
				}
			}
		}
	}
}

// processors are the digests of a launch by models, features and numbers of
// processors. A firmware that cannot be launched like that has none. It returns
// false when nobody wants more.
func (in *Inputs) processors(cfg snp.Config, because []string, with []predict.Pair, yield func(candidate, error) bool) bool {
	for _, model := range models() {
		signature, err := snp.SignatureOf(model)
		if err != nil {
			return yield(candidate{}, err)
		}
		for _, set := range []uint64{features, 0x21, 0} {
			cfg.Signature, cfg.Features = signature, set
			digests, _, err := snp.Launch(cfg, in.VCPUs)
			if err != nil {
				return true
			}
			for i, d := range digests {
				c := candidate{value: hex.EncodeToString(d[:]), because: in.surprises(because, model, set, i+1)}
				c.with = append(with[:len(with):len(with)], predict.Pair{Name: "vcpus", Value: fmt.Sprint(i + 1)},
					predict.Pair{Name: "cpu", Value: model}, predict.Pair{Name: "features", Value: fmt.Sprintf("%#x", set)})
				if !yield(c, nil) {
					return false
				}
			}
		}
	}
	return true
}

// models are QEMU's, the one that the shims ask for first.
func models() []string { return append([]string{predict.DefaultModel}, snp.Models()...) }

// surprises are in what processors are others than the shims ask for.
func (in *Inputs) surprises(because []string, model string, set uint64, n int) []string {
	because = because[:len(because):len(because)]
	if model != predict.DefaultModel {
		because = append(because, fmt.Sprintf("processor model %s instead of %s", model, predict.DefaultModel))
	}
	if set != features {
		because = append(because, fmt.Sprintf("SEV features %#x instead of %#x", set, features))
	}
	if n > in.Expected {
		because = append(because, fmt.Sprintf("%d processors, more than %d", n, in.Expected))
	}
	return because
}
