// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/hex"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"cocoon/measurements/se"
	"cocoon/mkimage/image"
)

type seFlags struct{ input }

func seCommand() *cobra.Command {
	var f seFlags
	c := &cobra.Command{
		Use:   "se {IMAGE | HEADER | SE-IMAGE}",
		Short: "tag of an image for IBM Secure Execution",
		Long: "Prints the tag that the ultravisor reports of an image for IBM Secure Execution, from the header that was kept of it. " +
			"The header is that of an image of mkimage, a file hdr.bin, or inside of an image of pvimg.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := f.read(args[0])
			if err != nil {
				return err
			}
			return f.write(cmd.OutOrStdout(), []result{r})
		},
	}
	f.outputFlags(c.Flags())
	return c
}

// read finds the header and says what is reported of it.
func (f *seFlags) read(name string) (result, error) {
	info, err := os.Stat(name)
	if err != nil {
		return result{}, err
	}
	var h *se.Header
	r := result{line: line{Shim: "ultravisor"}}
	if info.IsDir() {
		g, err := f.open(name, "se")
		if err != nil {
			return result{}, err
		}
		r.Cmdline = g.man.Cmdline
		h, err = image.SEHeader(name, g.man)
		if err != nil {
			return result{}, fmt.Errorf("image %q: %w", name, err)
		}
	} else if h, err = f.header(name); err != nil {
		return result{}, err
	}
	r.With = []pair{{"pages", fmt.Sprint(h.Pages)}}
	// The verifier's claim has this name, and no policy of upstream asks for it.
	r.Values = []pair{{"tag", hex.EncodeToString(h.Tag[:])}}
	if f.explain {
		r.Steps = headerSteps(h)
	}
	return r, nil
}

// header reads a file that is a header, or an image with one in it.
func (f *seFlags) header(name string) (*se.Header, error) {
	if !slices.Contains([]string{formatTable, formatJSON, formatReference}, f.format) {
		return nil, fmt.Errorf("%w: --format %q", errFlags, f.format)
	}
	raw, err := readFile(name, image.MaxSE)
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

// headerSteps are what the tag is over, of that which is not encrypted.
func headerSteps(h *se.Header) []step {
	list := []step{
		{Of: "tag", What: "pages of the image (PLD)", Digest: hex.EncodeToString(h.Content[:])},
		{Of: "tag", What: "addresses of the pages (ALD)", Digest: hex.EncodeToString(h.Addresses[:])},
		{Of: "tag", What: "tweaks of the encryption (TLD)", Digest: hex.EncodeToString(h.Tweaks[:])},
	}
	for _, k := range h.HostKeys {
		list = append(list, step{Of: "tag", What: "host key that may run it", Digest: hex.EncodeToString(k[:])})
	}
	return list
}
