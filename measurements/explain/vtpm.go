// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"maps"
	"slices"

	"cocoon/internal/initdata"
	"cocoon/measurements/predict"
	"cocoon/measurements/vtpm"
	"cocoon/mkimage/image"
)

// stubs are the releases of systemd's stub that are known.
func stubs() []int { return []int{252, 257, 259} }

// machine is an image that boots itself, by a release of the stub.
type machine struct {
	values  map[int][]byte
	with    []predict.Pair
	because []string
}

// suspects are what the registers of a TPM are of.
func suspects(pcr int) []string {
	return map[int][]string{
		4:  {"the unified kernel image, or a program that the firmware started before it"},
		9:  {"command line or initramfs in the unified kernel image"},
		11: {"a section of the unified kernel image"},
		12: {"a command line or credentials that the host laid beside the image"},
		13: {"system extensions that the host laid beside the image"},
	}[pcr]
}

func (a *Answer) vtpm(r *Reported, in *Inputs) error {
	machines, err := in.machines()
	if err != nil {
		return err
	}
	for _, pcr := range slices.Sorted(maps.Keys(machines[0].values)) {
		if err := a.find(r, fmt.Sprintf("pcr%02d", pcr), registers(machines, pcr), suspects(pcr)...); err != nil {
			return err
		}
	}
	return a.confirm(r, "pcr08", in, func(d *initdata.Document) (string, error) {
		value, _, err := vtpm.InitData(d.Digest())
		return hex.EncodeToString(value), err
	})
}

// machines are all images by all stubs, the stub that an image names first.
func (in *Inputs) machines() ([]machine, error) {
	var all []machine
	for i, g := range in.Images {
		program, err := g.Output(image.UKIName)
		if err != nil {
			return nil, err
		}
		own, err := vtpm.StubRelease(program)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", in.Names[i], err)
		}
		for _, stub := range stubs() {
			values, _, err := vtpm.Predict(sha256.New, program, stub)
			if err != nil {
				return nil, fmt.Errorf("image %s: %w", in.Names[i], err)
			}
			m := machine{values: values, with: []predict.Pair{{Name: "image", Value: in.Names[i]}, {Name: "stub", Value: fmt.Sprint(stub)}}}
			m.because = instead("image", i, in.Names[i], in.Names[0])
			if stub != own {
				m.because = join(m.because, []string{fmt.Sprintf("measured as by stub %d, which is not the image's", stub)})
			}
			all = append(all, m)
		}
	}
	return all, nil
}

func registers(machines []machine, pcr int) iter.Seq2[candidate, error] {
	return func(yield func(candidate, error) bool) {
		for _, m := range machines {
			if !yield(candidate{value: hex.EncodeToString(m.values[pcr]), with: m.with, because: m.because}, nil) {
				return
			}
		}
	}
}
