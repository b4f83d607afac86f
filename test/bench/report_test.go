// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAnAimIsJudgedOnlyWhereItCanBe(t *testing.T) {
	t.Parallel()
	ours := row{Unit: "s", Ours: 12}
	yes, no := new(true), new(false)
	for name, c := range map[string]struct {
		row   row
		met   *bool
		ratio *float64
		aim   string
	}{
		"within the limit":             {ours.atMost(12), yes, nil, "<= 12 s"},
		"above the limit":              {ours.atMost(11.9), no, nil, "<= 11.9 s"},
		"within the factor":            {ours.beside("p", 10).atMostTimes(1.2), yes, new(1.2), "<= 1.2 x peer"},
		"above the factor":             {ours.beside("p", 9).atMostTimes(1.2), no, new(12.0 / 9), "<= 1.2 x peer"},
		"factor without a peer":        {ours.atMostTimes(1.2), nil, nil, "<= 1.2 x peer"},
		"fast enough":                  {ours.beside("p", 30).timesFaster(2.5), yes, new(2.5), ">= 2.5 x faster"},
		"not fast enough":              {ours.beside("p", 29).timesFaster(2.5), no, new(29.0 / 12), ">= 2.5 x faster"},
		"speed without a peer":         {ours.timesFaster(2.5), nil, nil, ">= 2.5 x faster"},
		"no aim":                       {ours.beside("p", 24), nil, new(0.5), ""},
		"a peer that took no time":     {ours.beside("p", 0), nil, nil, ""},
		"speed when we took no time":   {row{}.beside("p", 1).timesFaster(2), nil, new(0.0), ">= 2 x faster"},
		"factor of a peer that is nil": {row{Ours: 1}.atMostTimes(2), nil, nil, "<= 2 x peer"},
	} {
		if (c.row.Met == nil) != (c.met == nil) || c.met != nil && *c.row.Met != *c.met {
			t.Errorf("%s: met is %v", name, c.row.Met)
		}
		if (c.row.Ratio == nil) != (c.ratio == nil) || c.ratio != nil && *c.row.Ratio != *c.ratio {
			t.Errorf("%s: wrong ratio %v", name, c.row.Ratio)
		}
		if c.row.Aim != c.aim {
			t.Errorf("%s: aim is %q, want %q", name, c.row.Aim, c.aim)
		}
	}
}

func exampleReport() *report {
	return &report{
		Machine: machine{CPUs: 2, Kernel: "6.1", Go: "go1.26"},
		Peers:   map[string]string{"runc": "1.1.5"},
		Rows: []row{
			row{Group: "first", Name: "one", Unit: "ms", Ours: 12}.beside("runc", 10).atMostTimes(1.1),
			row{Group: "first", Name: "two", Unit: "MB", Ours: 0.1234}.atMost(1),
			{Group: "second", Name: "three", Unit: "s", Ours: 1234.5},
		},
	}
}

func TestTheTableShowsEveryRowAndEachGroupOnce(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := exampleReport().writeTable(&b); err != nil {
		t.Fatal(err)
	}
	lines := map[string]string{}
	for line := range strings.Lines(b.String()) {
		if f := strings.Fields(line); len(f) > 0 {
			if _, twice := lines[f[0]]; twice {
				t.Errorf("%q stands there twice", f[0])
			}
			lines[f[0]] = strings.Join(f[1:], " ")
		}
	}
	for name, want := range map[string]string{
		"what": "unit ours peer ratio aim met", "FIRST": "", "SECOND": "",
		"one": "ms 12 10 runc 1.20 <= 1.1 x peer NO", "two": "MB 0.123 - - <= 1 MB yes", "three": "s 1235 - - - -",
	} {
		if got, ok := lines[name]; !ok || got != want {
			t.Errorf("line %s is %q, want %q", name, got, want)
		}
	}
}

func TestTheFileHoldsWhatTheTableShows(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "bench.json")
	if err := exampleReport().writeJSON(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Machine map[string]any
		Peers   map[string]string
		Rows    []map[string]any
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.Machine["cpus"] != 2.0 || got.Peers["runc"] != "1.1.5" || len(got.Rows) != 3 {
		t.Fatalf("file is %s", b)
	}
	if r := got.Rows[0]; r["ours"] != 12.0 || r["peer"] != 10.0 || r["ratio"] != 1.2 || r["met"] != false {
		t.Errorf("first row is %v", r)
	}
	for _, absent := range []string{"peer", "ratio", "aim", "met"} {
		if v, ok := got.Rows[2][absent]; ok {
			t.Errorf("a row without %s has %v", absent, v)
		}
	}
}

func TestAFileThatCannotBeWrittenIsAnError(t *testing.T) {
	t.Parallel()
	err := exampleReport().writeJSON(filepath.Join(t.TempDir(), "no", "such", "folder"))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}

func TestOnlyMissedAimsAreCounted(t *testing.T) {
	t.Parallel()
	if n := exampleReport().missed(); n != 1 {
		t.Errorf("%d aims missed, want 1", n)
	}
}

func TestNumbersKeepThreeDigits(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0: "0", 3: "3", 0.38912: "0.389", 1.005: "1", 3.14159: "3.14", 12.34: "12.3", 100.4: "100", 11339.2: "11339"} {
		if got := number(v); got != want {
			t.Errorf("%v is printed as %q, want %q", v, got, want)
		}
	}
}
