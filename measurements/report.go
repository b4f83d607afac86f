// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cocoon/measurements/predict"
	"cocoon/mkimage/manifest"
)

// errFlags is wrapped by errors about options that do not fit.
var errFlags = predict.ErrOptions

// report is all that a command found out about an image.
type report struct {
	// image is nil if only a part of one was given.
	image *manifest.Manifest
	// firmware is the file that was named, nil for a machine whose firmware counts
	// for nothing.
	firmware *manifest.File
	results  []predict.Result
}

// reportOf makes a report of the results for a guest.
func reportOf(g *predict.Guest) func([]predict.Result, error) (*report, error) {
	return func(results []predict.Result, err error) (*report, error) {
		return &report{image: g.Image, firmware: g.Firmware, results: results}, err
	}
}

func (r *report) references() map[string][]string { return predict.References(r.results) }

// files are those that a measured guest is made of.
func (r *report) files() []manifest.File {
	files := append([]manifest.File(nil), r.image.Outputs...)
	if r.firmware != nil {
		files = append(files, *r.firmware)
	}
	return files
}
