// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

const formatHTML = "html"

// formats are the forms of the output by name.
func formats() map[string]func(io.Writer, *report) error {
	return map[string]func(io.Writer, *report) error{
		"table":     writeTable,
		"json":      func(w io.Writer, r *report) error { return encode(w, r.results) },
		"reference": func(w io.Writer, r *report) error { return encode(w, r.references()) },
		"statement": writeStatement,
		"corim":     writeCoRIM,
		"rego":      writeRego,
		formatHTML:  writeHTML,
	}
}

// ofImages are the formats that say what a whole image is made of.
func ofImages() []string { return []string{"statement", "corim", "rego", formatHTML} }

// writeTable is for people.
func writeTable(w io.Writer, r *report) error {
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, res := range r.results {
		for _, v := range res.Values {
			fmt.Fprintf(tab, "%s\t", res.Shim)
			for _, p := range res.With {
				fmt.Fprintf(tab, "%s %s\t", p.Name, p.Value)
			}
			fmt.Fprintf(tab, "%s\t%s\n", v.Name, v.Value)
		}
	}
	if err := tab.Flush(); err != nil {
		return err
	}
	for _, res := range r.results {
		if len(res.Steps) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s: %s\n", res.Shim, res.Cmdline)
		for _, s := range res.Steps {
			fmt.Fprintf(w, "  %s  %s  %s\n", s.Of, s.Digest, s.What)
		}
	}
	return nil
}

func encode(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
