// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// Formats of the output.
const (
	formatTable     = "table"
	formatJSON      = "json"
	formatReference = "reference"
)

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
	Of     string `json:"of"`
	What   string `json:"what"`
	Digest string `json:"digest"`
}

// write prints results in the format that was asked for.
func (in *input) write(w io.Writer, all []result) error {
	switch in.format {
	case formatJSON:
		return encode(w, all)
	case formatReference:
		return encode(w, references(all))
	}
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range all {
		for _, v := range r.Values {
			fmt.Fprintf(tab, "%s\t", r.Shim)
			for _, p := range r.With {
				fmt.Fprintf(tab, "%s %s\t", p.Name, p.Value)
			}
			fmt.Fprintf(tab, "%s\t%s\n", v.Name, v.Value)
		}
	}
	if err := tab.Flush(); err != nil || !in.explain {
		return err
	}
	for _, r := range all {
		fmt.Fprintf(w, "\n%s: %s\n", r.Shim, r.Cmdline)
		for _, s := range r.Steps {
			fmt.Fprintf(w, "  %s  %s  %s\n", s.Of, s.Digest, s.What)
		}
	}
	return nil
}

// references are the values of all results, as lists: any of them is good.
func references(all []result) map[string][]string {
	lists := map[string][]string{}
	for _, r := range all {
		for _, v := range r.Values {
			if !slices.Contains(lists[v.Name], v.Value) {
				lists[v.Name] = append(lists[v.Name], v.Value)
			}
		}
	}
	return lists
}

func encode(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
