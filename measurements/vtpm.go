// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"cocoon/measurements/vtpm"
	"cocoon/mkimage/image"
)

type vtpmFlags struct {
	input
	verifiers []string
	stub      int
}

func vtpmCommand() *cobra.Command {
	var f vtpmFlags
	c := &cobra.Command{
		Use:   "vtpm IMAGE",
		Short: "registers of a TPM beside a machine that boots itself, bank of SHA-256",
		Args:  cobra.ExactArgs(1),
	}
	c.RunE = f.run(f.predict)
	fl := c.Flags()
	f.outputFlags(fl)
	fl.StringSliceVar(&f.verifiers, "verifier", []string{"snp", "tdx", "tpm"}, "verifiers whose names the values get: snp and tdx for Azure, tpm for a plain TPM")
	fl.IntVar(&f.stub, "stub", 0, "release of systemd's stub; default: what the image says of itself")
	return c
}

func (f *vtpmFlags) predict(dir string) (*report, error) {
	g, err := f.open(dir, "vtpm")
	if err != nil {
		return nil, err
	}
	program, err := g.output(image.UKIName)
	if err != nil {
		return nil, err
	}
	release := f.stub
	if release == 0 {
		if release, err = vtpm.StubRelease(program); err != nil {
			return nil, fmt.Errorf("%w: name it with --stub", err)
		}
	}
	values, steps, err := vtpm.Predict(sha256.New, program, release)
	if err != nil {
		return nil, err
	}
	more, err := f.addInitdata(values)
	if err != nil {
		return nil, err
	}
	steps = append(steps, more...)
	r := result{line: line{Shim: "firmware", Cmdline: g.man.Cmdline}, With: []pair{{"stub", fmt.Sprint(release)}}}
	for _, verifier := range f.verifiers {
		if !slices.Contains([]string{"snp", "tdx", "tpm"}, verifier) {
			return nil, fmt.Errorf("%w: --verifier %.20q, want snp, tdx or tpm", errFlags, verifier)
		}
		for _, pcr := range slices.Sorted(maps.Keys(values)) {
			r.Values = append(r.Values, pair{fmt.Sprintf("%s_pcr%02d", verifier, pcr), hex.EncodeToString(values[pcr])})
		}
	}
	for _, s := range steps {
		if f.explain {
			r.Steps = append(r.Steps, step{Of: fmt.Sprintf("pcr%02d", s.PCR), Input: s.Input, What: s.What, Digest: hex.EncodeToString(s.Digest)})
		}
	}
	out := g.report()
	out.results = []result{r}
	return out, nil
}

// addInitdata adds the register that a guest extends with its initdata.
func (f *vtpmFlags) addInitdata(values map[int][]byte) ([]vtpm.Step, error) {
	d, err := f.document()
	if d == nil || err != nil {
		return nil, err
	}
	value, steps, err := vtpm.InitData(d.Digest())
	if err != nil {
		return nil, fmt.Errorf("initdata %q: %w", f.initdata, err)
	}
	values[8] = value
	return steps, nil
}
