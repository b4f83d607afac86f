// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"cocoon/internal/bounded"
	"cocoon/trustee/store"
)

// Whatever depends on more than its arguments is listed here, so that a new
// version of the evaluator cannot bring another way out.
func TestWhatDependsOnMoreThanItsArgumentsIsKnown(t *testing.T) {
	t.Parallel()
	var got []string
	for _, b := range capabilities().Builtins {
		if b.Nondeterministic {
			got = append(got, b.Name)
		}
	}
	slices.Sort(got)
	if want := []string{"io.jwt.decode_verify", "io.jwt.encode_sign", "io.jwt.encode_sign_raw", "rand.intn", "time.now_ns", "uuid.rfc4122"}; !slices.Equal(got, want) {
		t.Fatalf("functions %q, want %q", got, want)
	}
}

func TestPoliciesOfTheFieldEvaluate(t *testing.T) {
	t.Parallel()
	const evidence = "ear.veraison.annotated-evidence"
	guest := func(status string, claims map[string]any) map[string]any {
		return map[string]any{"submods": map[string]any{"cpu0": map[string]any{"ear.status": status, evidence: claims}}}
	}
	const notSample = `package policy
import rego.v1
default allow = false
allow if {
	data.plugin == "resource"
	not input.submods.cpu0["` + evidence + `"].sample
}`
	const byInitData = `package policy
default allow := false
allow if input.submods.cpu0["` + evidence + `"].init_data_claims["cdh.toml"].image.work_dir == "/run/x"`
	withInit := map[string]any{"init_data_claims": map[string]any{"cdh.toml": map[string]any{"image": map[string]any{"work_dir": "/run/x"}}}}
	for name, tc := range map[string]struct {
		text  string
		input any
		want  bool
	}{
		"a genuine TEE":         {notSample, guest("contraindicated", map[string]any{"snp": map[string]any{}}), true},
		"the sample TEE":        {notSample, guest("affirming", map[string]any{"sample": map[string]any{}}), false},
		"its initdata":          {byInitData, guest("none", withInit), true},
		"no initdata":           {byInitData, guest("none", map[string]any{"init_data_claims": nil}), false},
		"initdata that is text": {byInitData, guest("none", map[string]any{"init_data_claims": map[string]any{"cdh.toml": "image = 1"}}), false},
		"no input":              {byInitData, nil, false},
		"input is a list":       {byInitData, []any{1}, false},
	} {
		p := compile(t, tc.text)
		v, ok, err := p.Value(t.Context(), "allow", Eval{Input: tc.input, Data: map[string]any{"plugin": "resource"}})
		if err != nil || !ok || v != tc.want {
			t.Errorf("%s: %v %v, error %v; want %v", name, v, ok, err, tc.want)
		}
	}
}

func TestWhatIsNoNameIsNotLookedUp(t *testing.T) {
	t.Parallel()
	p := compile(t, `package policy
number if query_reference_value(input.n) == 1`)
	if v, ok, err := p.Value(t.Context(), "number", Eval{Input: make(chan int)}); err == nil || ok {
		t.Errorf("input that Rego cannot hold: %v", v)
	}
	for _, name := range []any{1, nil, []any{"x"}} {
		asked := false
		v, ok, _ := p.Value(t.Context(), "number", Eval{Input: map[string]any{"n": name}, Lookup: func(string) (any, bool) { asked = true; return 1, true }})
		if ok || asked {
			t.Errorf("name %v: %v, asked %v", name, v, asked)
		}
	}
}

func TestACallerWhoLeftGetsNoDecision(t *testing.T) {
	t.Parallel()
	p := compile(t, `package policy
allow if { every x in numbers.range(1, 99999) { every y in numbers.range(1, 99999) { x + y > 0 } } }`)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if v, ok, err := p.Value(ctx, "allow", Eval{}); err == nil || ok {
		t.Fatalf("got %v", v)
	}
}

func TestEvaluationsDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	p := compile(t, `package policy
out := [input.n, data.n, query_reference_value("n")]`)
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			n := json.Number(fmt.Sprint(i))
			v, ok, err := p.Value(t.Context(), "out", Eval{
				Input: map[string]any{"n": n}, Data: map[string]any{"n": n}, Lookup: func(string) (any, bool) { return n, true },
			})
			got, encErr := json.Marshal(v)
			if want := fmt.Sprintf("[%d,%d,%d]", i, i, i); errors.Join(err, encErr) != nil || !ok || string(got) != want {
				t.Errorf("%s, error %v, want %s", got, err, want)
			}
		})
	}
	wg.Wait()
}

func TestAPolicyThatIsRefusedLeavesTheOldOneInForce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := openSet(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty": "", "syntax": "package policy\nv :=", "other package": "package other\nv := 2", "network": `package policy` + "\n" + `v := http.send({"url": "http://127.0.0.1", "method": "get"})`,
		"file": "package policy\n" + `v := json.match_schema({}, {"$ref": "file:///etc/hostname"})`, "too large": "package policy\n#" + strings.Repeat("x", MaxText),
	} {
		if err := s.Put("main", text); !errors.Is(err, ErrBadPolicy) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p, err := s.Get("main")
	if err != nil || p.Text() != "package policy\nv := 1" || s.Edits() != 0 {
		t.Fatalf("in force is %v after %d changes, error %v", p, s.Edits(), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Fatalf("files %v, error %v", entries, err)
	}
	// A store that cannot write is no reason to use what is not stored.
	if err := os.Mkdir(filepath.Join(dir, "main.rego"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "main.rego", "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Put("main", "package policy\nv := 2"); err == nil {
		t.Fatal("stored over a folder")
	}
	if p, err := s.Get("main"); err != nil || p.Text() != "package policy\nv := 1" || s.Edits() != 0 {
		t.Fatalf("in force is %v, error %v", p, err)
	}
}

func TestConcurrentWritersLoseNoPolicy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := openSet(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := s.Put(fmt.Sprint("p", i), fmt.Sprintf("package policy\nv := %d", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	again, err := openSet(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"main", "p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7"}
	if !slices.Equal(s.IDs(), want) || !slices.Equal(again.IDs(), want) || s.Edits() != 8 || again.Edits() != 0 {
		t.Fatalf("policies %q, stored %q, %d changes", s.IDs(), again.IDs(), s.Edits())
	}
}

func TestAFolderOfStrangeFilesIsNotOpened(t *testing.T) {
	t.Parallel()
	fill := func(names ...string) string {
		dir := t.TempDir()
		for _, n := range names {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, n)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, n), []byte("package policy"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	var many []string
	for i := range maxPolicies + 1 {
		many = append(many, fmt.Sprintf("p%d.rego", i))
	}
	large := fill()
	if err := os.WriteFile(filepath.Join(large, "a.rego"), []byte(strings.Repeat("#", MaxText+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	linked := fill()
	if err := os.Symlink("/etc/hostname", filepath.Join(linked, "a.rego")); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		dir  string
		want error
	}{
		"too many": {fill(many...), bounded.ErrTooLarge}, "too large": {large, bounded.ErrTooLarge}, "link": {linked, nil},
		"below": {fill("sub/a.rego"), nil}, "hidden": {fill(".rego"), nil}, "no suffix": {fill("main"), nil}, "long": {fill(strings.Repeat("a", maxID+1) + ".rego"), nil},
	} {
		d, err := store.OpenDir(tc.dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenSet(d, nil); err == nil || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s: error %v", name, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	d, err := store.OpenDir(fill())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if _, err := OpenSet(d, map[string]string{"main": "package other"}); !errors.Is(err, ErrBadPolicy) {
		t.Errorf("bad default: %v", err)
	}
}
