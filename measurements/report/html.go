// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	_ "embed" // the page's template
	"fmt"
	"html/template"
	"io"

	"cocoon/measurements/predict"
	"cocoon/mkimage/image"
	"cocoon/mkimage/manifest"
)

//go:embed page.html
var page string

// view is what the template of the page shows.
type view struct {
	Image   *manifest.Manifest
	Files   []manifest.File
	Results []resultView
	// Lists are the reference values of all results.
	Lists map[string][]string
}

type resultView struct {
	predict.Result
	ID    string
	Steps []stepView
}

type stepView struct {
	predict.Step
	// Anchor is where the page shows what the digest is of, and Source what that is
	// called; "" for what is the same for all images.
	Anchor, Source string
}

// writeHTML writes one page that needs nothing beside it: no script, no network.
// It goes from each register to the files behind it.
func writeHTML(w io.Writer, r *Report) error {
	t, err := template.New("page").Parse(page)
	if err != nil {
		return fmt.Errorf("parse the page: %w", err)
	}
	return t.Execute(w, r.view())
}

func (r *Report) view() view {
	v := view{Image: r.Image, Files: r.files(), Lists: r.references()}
	for i, res := range r.Results {
		out := resultView{Result: res, ID: fmt.Sprintf("launch-%d", i+1)}
		for _, s := range res.Steps {
			shown := stepView{Step: s}
			shown.Anchor, shown.Source = v.source(s.Input, out.ID)
			out.Steps = append(out.Steps, shown)
		}
		v.Results = append(v.Results, out)
	}
	return v
}

// source finds what the input of a step is: a file, the command line of the
// launch itself, the owner's document, or a part of a unified kernel image.
func (v *view) source(input, launch string) (anchor, name string) {
	switch input {
	case "":
		return "", ""
	case "cmdline":
		return launch + "-cmdline", "command line"
	case "initdata":
		return "initdata", "initdata"
	}
	for _, f := range v.Files {
		if f.Name == input {
			return "file-" + f.Name, f.File
		}
	}
	for _, f := range v.Files {
		if f.Name == image.UKIName {
			return "file-" + f.Name, f.File
		}
	}
	return "", input
}
