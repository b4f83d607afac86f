// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package se

import (
	"fmt"
	"path/filepath"
	"slices"

	"cocoon/internal/bounded"
	image "cocoon/measurements/se"
)

const maxHeaders = 256

// readHeaders returns what the headers in a folder pin: the digests of pages,
// addresses and tweaks, and the tag, of each image that may run.
func readHeaders(folder string) ([][]byte, error) {
	names, err := filepath.Glob(filepath.Join(folder, "*.bin"))
	if err != nil {
		return nil, fmt.Errorf("list the image headers in %q: %w", folder, err)
	}
	if len(names) == 0 || len(names) > maxHeaders {
		return nil, fmt.Errorf("%d image headers (*.bin) in %q, want 1 to %d", len(names), folder, maxHeaders)
	}
	var all [][]byte
	for _, name := range names {
		raw, err := bounded.ReadFile(name, image.MaxHeader)
		if err != nil {
			return nil, err
		}
		h, err := image.Parse(raw)
		if err != nil {
			return nil, fmt.Errorf("read %q: %w", name, err)
		}
		all = append(all, tagsOf(h))
	}
	return all, nil
}

// tagsOf are the digests and the tag of a header, as they are measured.
func tagsOf(h *image.Header) []byte {
	return slices.Concat(h.Content[:], h.Addresses[:], h.Tweaks[:], h.Tag[:])
}
