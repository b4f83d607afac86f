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

	"cocoon/internal/initdata"
	"cocoon/measurements/vtpm"
	"cocoon/mkimage/image"
)

type vtpmFlags struct {
	input
	verifiers []string
	stub      int
	initdata  string
}

func vtpmCommand() *cobra.Command {
	var f vtpmFlags
	c := &cobra.Command{
		Use:   "vtpm IMAGE",
		Short: "registers of a TPM beside a machine that boots itself, bank of SHA-256",
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
	f.outputFlags(fl)
	fl.StringSliceVar(&f.verifiers, "verifier", []string{"snp", "tdx", "tpm"}, "verifiers whose names the values get: snp and tdx for Azure, tpm for a plain TPM")
	fl.IntVar(&f.stub, "stub", 0, "release of systemd's stub; default: what the image says of itself")
	fl.StringVar(&f.initdata, "initdata", "", "initdata document of a pod, for PCR 8 as well")
	return c
}

func (f *vtpmFlags) predict(dir string) ([]result, error) {
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
	if f.initdata != "" {
		more, err := f.addInitdata(values)
		if err != nil {
			return nil, err
		}
		steps = append(steps, more...)
	}
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
			r.Steps = append(r.Steps, step{Of: fmt.Sprintf("pcr%02d", s.PCR), What: s.What, Digest: hex.EncodeToString(s.Digest)})
		}
	}
	return []result{r}, nil
}

// addInitdata adds the register that a guest extends with its initdata.
func (f *vtpmFlags) addInitdata(values map[int][]byte) ([]vtpm.Step, error) {
	raw, err := readFile(f.initdata, initdata.MaxDocument)
	if err != nil {
		return nil, err
	}
	d, err := initdata.Parse(raw, initdata.Options{AnyVersion: true})
	if err != nil {
		return nil, fmt.Errorf("initdata %q: %w", f.initdata, err)
	}
	value, steps, err := vtpm.InitData(d.Digest())
	if err != nil {
		return nil, fmt.Errorf("initdata %q: %w", f.initdata, err)
	}
	values[8] = value
	return steps, nil
}
