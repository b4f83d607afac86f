// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/trustee/store"
)

func compile(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Compile(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestARuleSeesInputDataAndReferenceValues(t *testing.T) {
	t.Parallel()
	p := compile(t, `package policy
result := {"in": input.a, "data": data.plugin, "ref": query_reference_value("x"), "none": query_reference_value("y")}
undefined if input.b`)
	e := Eval{
		Input: map[string]any{"a": "1"}, Data: map[string]any{"plugin": "p"},
		Lookup: func(name string) (any, bool) { return []any{json.Number("7")}, name == "x" },
	}
	v, ok, err := p.Value(t.Context(), "result", e)
	got, encErr := json.Marshal(v)
	if err = errors.Join(err, encErr); err != nil || !ok || string(got) != `{"data":"p","in":"1","none":null,"ref":[7]}` {
		t.Fatalf("got %s %v, error %v", got, ok, err)
	}
	for _, rule := range []string{"undefined", "absent"} {
		if v, ok, err := p.Value(t.Context(), rule, e); ok || err != nil {
			t.Errorf("rule %s is %v, error %v; want undefined", rule, v, err)
		}
	}
}

func TestAnEndlessRuleIsStopped(t *testing.T) {
	t.Parallel()
	p := compile(t, `package policy
allow if { every x in numbers.range(1, 9999) { every y in numbers.range(1, 9999) { x + y > 0 } } }`)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if v, ok, err := p.Value(ctx, "allow", Eval{}); err == nil || ok {
		t.Fatalf("got %v, want an error", v)
	}
}

func TestConflictingResultsAreAnError(t *testing.T) {
	t.Parallel()
	p := compile(t, "package policy\nallow := true if input.a\nallow := false if input.a")
	if v, ok, err := p.Value(t.Context(), "allow", Eval{Input: map[string]any{"a": true}}); err == nil || ok {
		t.Fatalf("got %v, want an error", v)
	}
}

func TestNoPolicyReachesOut(t *testing.T) {
	t.Parallel()
	for _, call := range []string{
		`http.send({"method": "get", "url": "http://127.0.0.1"})`, `net.lookup_ip_addr("localhost")`, `opa.runtime()`, `rego.parse_module("a", "package a")`,
		`json.match_schema({}, {"$ref": "file:///etc/hostname"})`, `json.verify_schema({"$ref": "http://127.0.0.1/"})`,
	} {
		if _, err := Compile("package policy\nx := " + call); !errors.Is(err, ErrBadPolicy) {
			t.Errorf("%s: error %v", call, err)
		}
	}
}

func TestTextsThatAreNoPolicyAreRefused(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"empty": "", "comment": "# x", "other package": "package policies\n", "below": "package policy.x\n", "old syntax": "package policy\nallow { true }",
		"binary": "\x00\xff", "unsafe variable": "package policy\nallow if x > 1", "recursion": "package policy\na if b\nb if a",
		"too large": "package policy\n#" + strings.Repeat("x", MaxText), "redefined lookup": "package policy\nquery_reference_value(x) := 1\nquery_reference_value(x) := 2 if true\ny := query_reference_value(1, 2)",
	} {
		if _, err := Compile(text); !errors.Is(err, ErrBadPolicy) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func openSet(t testing.TB, dir string) (*Set, error) {
	t.Helper()
	d, err := store.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return OpenSet(d, map[string]string{"main": "package policy\nv := 1"})
}

func TestPoliciesSurviveARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := openSet(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put("main", "package policy\nv := 2"); err != nil {
		t.Fatal(err)
	}
	if err := s.Put("main", "package policy\nv :="); !errors.Is(err, ErrBadPolicy) {
		t.Fatalf("bad text: %v", err)
	}
	for _, id := range []string{"", "a/b", "..", "a.b", strings.Repeat("a", 65), "é"} {
		if err := s.Put(id, "package policy"); !errors.Is(err, store.ErrBadName) {
			t.Errorf("id %q: error %v", id, err)
		}
	}
	again, err := openSet(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	p, err := again.Get("main")
	if err != nil || p.Text() != "package policy\nv := 2" {
		t.Fatalf("got %v, error %v", p, err)
	}
	if _, err := again.Get("none"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("unknown id: %v", err)
	}
}

func TestABrokenPolicyFileIsNoDefault(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"main.rego": "package policy\nv :=", "main.txt": "package policy", "a b.rego": "package policy"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openSet(t, dir); err == nil {
			t.Errorf("file %q with %q was passed over", name, text)
		}
	}
}

func FuzzCompile(f *testing.F) {
	f.Add("package policy\nallow := true")
	f.Add("package policy\nallow if query_reference_value(\"x\") == 1")
	f.Add("package policy\nallow if input.a[_] == data.b")
	f.Add("package policy\nimport rego.v1\nallow { x }")
	f.Add("package policy\nx := [[[[[[{{{{{{")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Compile(text)
		if err != nil {
			if !errors.Is(err, ErrBadPolicy) {
				t.Fatalf("error %v is not ErrBadPolicy", err)
			}
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		// Any text may decide anything; it only has to come to an end.
		_, _, _ = p.Value(ctx, "allow", Eval{Input: map[string]any{"a": []any{1}}})
	})
}
