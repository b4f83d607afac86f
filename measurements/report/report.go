// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package report writes what is predicted about an image in the forms that
// people, brokers and other programs read.
//
// Trust: the image and the firmware may be anybody's, and so is every text that
// comes from them; no text becomes markup or code. Nothing here is signed: who
// vouches for the values signs them.
package report

import (
	"cocoon/measurements/predict"
	"cocoon/mkimage/manifest"
)

// Report is what is predicted about an image.
type Report struct {
	// Image is nil if only a part of one was given.
	Image *manifest.Manifest
	// Firmware is the file that was named, nil for a machine whose firmware counts
	// for nothing.
	Firmware *manifest.File
	Results  []predict.Result
}

func (r *Report) references() map[string][]string { return predict.References(r.Results) }

// files are those that a measured guest is made of.
func (r *Report) files() []manifest.File {
	files := append([]manifest.File(nil), r.Image.Outputs...)
	if r.Firmware != nil {
		files = append(files, *r.Firmware)
	}
	return files
}
