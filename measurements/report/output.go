// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"cocoon/measurements/predict"
)

// HTML is the name of the format that always shows the steps.
const HTML = "html"

// Formats are the forms of a report by name: how each is written.
func Formats() map[string]func(io.Writer, *Report) error {
	return map[string]func(io.Writer, *Report) error{
		"table":     writeTable,
		"json":      func(w io.Writer, r *Report) error { return Encode(w, r.Results) },
		"reference": func(w io.Writer, r *Report) error { return Encode(w, r.references()) },
		"statement": ofImage(writeStatement),
		"corim":     ofImage(writeCoRIM),
		"rego":      ofImage(writeRego),
		HTML:        ofImage(writeHTML),
	}
}

// ofImage is for a form that says what a whole image is made of.
func ofImage(write func(io.Writer, *Report) error) func(io.Writer, *Report) error {
	return func(w io.Writer, r *Report) error {
		if r.Image == nil {
			return fmt.Errorf("%w: this format is about an image, not a part of one", predict.ErrOptions)
		}
		return write(w, r)
	}
}

// writeTable is for people.
func writeTable(w io.Writer, r *Report) error {
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, res := range r.Results {
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
	for _, res := range r.Results {
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

// Encode writes JSON as all commands do.
func Encode(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
