// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"strconv"
	"strings"
)

// family is one metric with all its label values, and where it comes from.
type family struct {
	name, help string
	kind       string   // of Prometheus; gauge if empty
	labels     []string // their names
	file       string   // below procfs
	parse      func([]byte) ([]sample, error)
}

// sample is one line of a family. labels are the values, in the order of the
// family's names, and valid UTF-8: a parser that met two names which differ in
// bytes that are not has told them apart or refused them.
type sample struct {
	labels []string
	value  float64
}

// labelText escapes a label's value as the text format wants it.
var labelText = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// write appends a family. One without samples is left out.
func write(b *strings.Builder, f family, samples []sample) {
	if len(samples) == 0 {
		return
	}
	kind := f.kind
	if kind == "" {
		kind = "gauge"
	}
	b.WriteString("# HELP " + f.name + " " + f.help + "\n# TYPE " + f.name + " " + kind + "\n")
	for _, s := range samples {
		b.WriteString(f.name)
		for i, name := range f.labels {
			b.WriteByte("{,"[min(i, 1)])
			b.WriteString(name + `="` + labelText.Replace(s.labels[i]) + `"`)
		}
		if len(f.labels) > 0 {
			b.WriteByte('}')
		}
		b.WriteByte(' ')
		b.WriteString(strconv.FormatFloat(s.value, 'f', -1, 64))
		b.WriteByte('\n')
	}
}
