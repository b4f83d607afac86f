// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
)

// report is the result of a run.
type report struct {
	Machine machine           `json:"machine"`
	Peers   map[string]string `json:"peers"` // Debian package to its version
	Rows    []row             `json:"rows"`
}

// writeTable prints the rows as one table.
func (r *report) writeTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	group := ""
	fmt.Fprintln(t, "what\tunit\tours\tpeer\tratio\taim\tmet")
	for _, row := range r.Rows {
		if row.Group != group {
			group = row.Group
			fmt.Fprintf(t, "\t\t\t\t\t\t\n%s\t\t\t\t\t\t\n", strings.ToUpper(group))
		}
		peer := "-"
		if row.Peer != nil {
			peer = number(*row.Peer) + " " + row.PeerName
		}
		ratio := "-"
		if row.Ratio != nil {
			ratio = strconv.FormatFloat(*row.Ratio, 'f', 2, 64)
		}
		met := "-"
		if row.Met != nil {
			met = map[bool]string{true: "yes", false: "NO"}[*row.Met]
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", row.Name, row.Unit, number(row.Ours), peer, ratio, orDash(row.Aim), met)
	}
	return t.Flush()
}

// writeJSON writes the report to a file.
func (r *report) writeJSON(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// missed counts the rows whose aim was not met.
func (r *report) missed() (n int) {
	for _, row := range r.Rows {
		if row.Met != nil && !*row.Met {
			n++
		}
	}
	return n
}

// number prints three significant digits of small values and all digits
// before the point of large ones.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a == math.Trunc(a) || a >= 100:
		return strconv.FormatFloat(math.Round(v), 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
