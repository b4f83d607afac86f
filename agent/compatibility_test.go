// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"cocoon/agent/storage"
	"cocoon/internal/wire/agentpb"
)

// compatibilityRow is one line of a table in docs/compatibility.md.
type compatibilityRow struct {
	section, name, answer, why string
	tests                      []string // package.Function
}

var testName = regexp.MustCompile("`([a-z0-9/]+)\\.((?:Test|Fuzz)[A-Za-z0-9_]+)`")

// compatibility reads the tables, and the names of all tests on the page.
func compatibility(t *testing.T) (rows []compatibilityRow, tests []string) {
	t.Helper()
	page, err := os.ReadFile("../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range testName.FindAllStringSubmatch(string(page), -1) {
		tests = append(tests, m[1]+"."+m[2])
	}
	section := ""
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSpace(line)
		if title, is := strings.CutPrefix(line, "## "); is {
			section = title
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || len(cells) > 1 && strings.TrimSpace(cells[1]) == "Answer" {
			continue
		}
		if len(cells) != 4 {
			t.Errorf("a row with %d cells: %s", len(cells), line)
			continue
		}
		r := compatibilityRow{
			section: section, name: strings.Trim(strings.TrimSpace(cells[0]), "`"),
			answer: strings.TrimSpace(cells[1]), why: strings.TrimSpace(cells[2]),
		}
		for _, m := range testName.FindAllStringSubmatch(cells[3], -1) {
			r.tests = append(r.tests, m[1]+"."+m[2])
		}
		rows = append(rows, r)
	}
	return rows, tests
}

// answersOf returns the rows of a section by name.
func answersOf(t *testing.T, rows []compatibilityRow, section string) map[string]compatibilityRow {
	t.Helper()
	all := make(map[string]compatibilityRow)
	for _, r := range rows {
		if r.section != section {
			continue
		}
		if _, twice := all[r.name]; twice {
			t.Errorf("%s has two rows", r.name)
		}
		all[r.name] = r
	}
	return all
}

func TestCompatibilityRowsAreComplete(t *testing.T) {
	t.Parallel()
	rows, _ := compatibility(t)
	sections := make(map[string]int)
	for _, r := range rows {
		sections[r.section]++
		switch r.answer {
		case "yes":
		case "differs", "no":
			if r.why == "" {
				t.Errorf("%s: no reason", r.name)
			}
		default:
			t.Errorf("%s: answer %q", r.name, r.answer)
		}
		if r.answer != "no" && len(r.tests) == 0 {
			t.Errorf("%s: nothing shows it", r.name)
		}
	}
	for section, least := range map[string]int{
		"Methods": 44, "Storage drivers": 14, "Parameters of the kernel command line": 29, "OCI runtime features": 25,
	} {
		if sections[section] < least {
			t.Errorf("%s: %d rows", section, sections[section])
		}
	}
}

func TestCompatibilityKnowsEveryMethodAndDriver(t *testing.T) {
	t.Parallel()
	rows, _ := compatibility(t)
	methods := answersOf(t, rows, "Methods")
	want := 0
	for m := range reflect.TypeFor[agentpb.AgentServiceService]().Methods() {
		want++
		r, there := methods[m.Name]
		if !there {
			t.Errorf("%s has no row", m.Name)
		}
		if served[m.Name] == (r.answer == "no") {
			t.Errorf("%s is served: %t, and the page says %q", m.Name, served[m.Name], r.answer)
		}
	}
	for m := range reflect.TypeFor[agentpb.HealthService]().Methods() {
		want++
		if r := methods["Health."+m.Name]; r.answer != "yes" {
			t.Errorf("Health.%s: %q", m.Name, r.answer)
		}
	}
	if len(methods) != want {
		t.Errorf("%d rows for %d methods", len(methods), want)
	}
	drivers := answersOf(t, rows, "Storage drivers")
	handled := make(map[string]bool)
	for _, d := range storage.New(storage.Config{Run: t.TempDir()}).Drivers() {
		handled[d] = true
		if _, there := drivers[d]; !there {
			t.Errorf("driver %s has no row", d)
		}
	}
	for name, r := range drivers {
		if handled[name] == (r.answer == "no") {
			t.Errorf("driver %s is handled: %t, and the page says %q", name, handled[name], r.answer)
		}
	}
}

func TestEveryTestThatCompatibilityNamesExists(t *testing.T) {
	t.Parallel()
	_, tests := compatibility(t)
	if len(tests) < 100 {
		t.Errorf("%d tests are named", len(tests))
	}
	known := make(map[string]string) // the tests' text by package
	for _, name := range tests {
		dir, function := path.Split(name)
		pkg, function, _ := strings.Cut(function, ".")
		if name == "main."+function {
			pkg = "."
		}
		dir = filepath.Join("..", dir, pkg)
		text, read := known[dir]
		if !read {
			text = testFiles(t, dir)
			known[dir] = text
		}
		if !strings.Contains(text, "\nfunc "+function+"(") {
			t.Errorf("there is no %s", name)
		}
	}
}

// testFiles returns all test files of a folder as one text.
func testFiles(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}
