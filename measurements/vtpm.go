// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"cocoon/measurements/predict"
	"cocoon/measurements/report"
)

type vtpmFlags struct {
	outputFlags
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
	f.add(fl)
	fl.StringSliceVar(&f.verifiers, "verifier", predict.DefaultVerifiers(), "verifiers whose names the values get: snp and tdx for Azure, tpm for a plain TPM")
	fl.IntVar(&f.stub, "stub", 0, "release of systemd's stub; default: what the image says of itself")
	return c
}

func (f *vtpmFlags) predict(dir string) (*report.Report, error) {
	g, err := predict.Open(dir, "vtpm")
	if err != nil {
		return nil, err
	}
	d, err := predict.Document(f.initdata)
	if err != nil {
		return nil, err
	}
	return reportOf(g)(g.VTPM(predict.VTPM{Verifiers: f.verifiers, Stub: f.stub, Document: d}))
}
