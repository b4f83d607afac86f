// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package predict

import "slices"

// Result is one prediction: values under the names of reference values.
type Result struct {
	Line
	// With tells what else the values are for, such as the number of processors.
	With   []Pair `json:"with"`
	Values []Pair `json:"values"`
	Steps  []Step `json:"steps,omitempty"`
}

// Pair is a name and what it is.
type Pair struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Step is how a value came about.
type Step struct {
	// Of is the register, or what goes into it.
	Of string `json:"of"`
	// Input is what the digest is of: a name of the manifest's files, "firmware",
	// "cmdline", "initdata", a section, or "" for what is the same for all images.
	Input string `json:"input,omitempty"`
	What  string `json:"what"`
	// Digest is hexadecimal.
	Digest string `json:"digest"`
}

// References are the values of all results, as lists without repetition: any of
// them is good.
func References(results []Result) map[string][]string {
	lists := map[string][]string{}
	for _, r := range results {
		for _, v := range r.Values {
			if !slices.Contains(lists[v.Name], v.Value) {
				lists[v.Name] = append(lists[v.Name], v.Value)
			}
		}
	}
	return lists
}
