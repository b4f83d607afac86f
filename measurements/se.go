// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"cocoon/internal/bounded"
	"cocoon/measurements/predict"
	"cocoon/measurements/report"
	"cocoon/measurements/se"
	"cocoon/mkimage/image"
)

type seFlags struct{ outputFlags }

func seCommand() *cobra.Command {
	var f seFlags
	c := &cobra.Command{
		Use:   "se {IMAGE | HEADER | SE-IMAGE}",
		Short: "tag of an image for IBM Secure Execution",
		Long: "Prints the tag that the ultravisor reports of an image for IBM Secure Execution, from the header that was kept of it. " +
			"The header is that of an image of mkimage, a file hdr.bin, or inside of an image of pvimg.",
		Args: cobra.ExactArgs(1),
	}
	c.RunE = f.run(f.predict)
	f.add(c.Flags())
	return c
}

// predict finds the header and says what is reported of it.
func (f *seFlags) predict(name string) (*report.Report, error) {
	if f.initdata != "" {
		return nil, fmt.Errorf("%w: --initdata: Secure Execution confirms no document", errFlags)
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		g, err := predict.Open(name, "se")
		if err != nil {
			return nil, err
		}
		return reportOf(g)(g.SE())
	}
	h, err := header(name)
	if err != nil {
		return nil, err
	}
	return &report.Report{Results: []predict.Result{predict.OfHeader(h)}}, nil
}

// header reads a file that is a header, or an image with one in it.
func header(name string) (*se.Header, error) {
	raw, err := bounded.ReadFile(name, image.MaxSE)
	if err != nil {
		return nil, err
	}
	find := se.Find
	if len(raw) <= se.MaxHeader { // an image has more before its header
		find = se.Parse
	}
	h, err := find(raw)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", name, err)
	}
	return h, nil
}
