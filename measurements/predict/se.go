// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package predict

import (
	"encoding/hex"
	"fmt"

	"cocoon/measurements/se"
	"cocoon/mkimage/image"
)

// SE returns what the ultravisor reports of an image for IBM Secure Execution.
// The error wraps image.ErrUnsealed if only its parts are there.
func (g *Guest) SE() ([]Result, error) {
	h, err := image.SEHeader(g.dir, g.Image)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", g.dir, err)
	}
	r := OfHeader(h)
	r.Cmdline = g.Image.Cmdline
	return []Result{r}, nil
}

// OfHeader is what the ultravisor reports of an image with a header.
func OfHeader(h *se.Header) Result {
	return Result{
		Line: Line{Shim: "ultravisor"}, With: []Pair{{"pages", fmt.Sprint(h.Pages)}},
		// The verifier's claim has this name, and no policy of upstream asks for it.
		Values: []Pair{{"tag", hex.EncodeToString(h.Tag[:])}},
		Steps:  headerSteps(h),
	}
}

// headerSteps are what the tag is over, of that which is not encrypted.
func headerSteps(h *se.Header) []Step {
	list := []Step{
		{Of: "tag", Input: image.SEName, What: "pages of the image (PLD)", Digest: hex.EncodeToString(h.Content[:])},
		{Of: "tag", Input: image.SEName, What: "addresses of the pages (ALD)", Digest: hex.EncodeToString(h.Addresses[:])},
		{Of: "tag", Input: image.SEName, What: "tweaks of the encryption (TLD)", Digest: hex.EncodeToString(h.Tweaks[:])},
	}
	for _, k := range h.HostKeys {
		list = append(list, Step{Of: "tag", Input: image.SEHeaderName, What: "host key that may run it", Digest: hex.EncodeToString(k[:])})
	}
	return list
}
