// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"

	"cocoon/mkimage/manifest"
)

// report is all that a command found out about an image.
type report struct {
	image *manifest.Manifest
	// firmware is the file that was named, nil for a machine whose firmware counts
	// for nothing.
	firmware *manifest.File
	results  []result
}

// result is one prediction: values under the names of reference values.
type result struct {
	line
	// With tells what else the values are for, such as the number of processors.
	With   []pair `json:"with"`
	Values []pair `json:"values"`
	Steps  []step `json:"steps,omitempty"`
}

// pair is a name and what it is.
type pair struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// step is how a value came about.
type step struct {
	Of string `json:"of"`
	// Input is what the digest is of: a name of the manifest's files, "firmware",
	// "cmdline", "initdata", a section, or "" for what is the same for all images.
	Input  string `json:"input,omitempty"`
	What   string `json:"what"`
	Digest string `json:"digest"`
}

// references are the values of all results, as lists: any of them is good.
func (r *report) references() map[string][]string {
	lists := map[string][]string{}
	for _, res := range r.results {
		for _, v := range res.Values {
			if !slices.Contains(lists[v.Name], v.Value) {
				lists[v.Name] = append(lists[v.Name], v.Value)
			}
		}
	}
	return lists
}
