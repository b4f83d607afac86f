// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package rvps

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/trustee/store"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func open(t testing.TB, dir string, c *clock) *Registry {
	t.Helper()
	d, err := store.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	r, err := Open(d, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func newMessage(t testing.TB, values map[string]any, expires time.Time) []byte {
	t.Helper()
	raw, err := NewMessage(values, expires)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestValuesAreReplacedKeptAndExpired(t *testing.T) {
	t.Parallel()
	dir, c := t.TempDir(), &clock{t: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}
	r := open(t, dir, c)
	for _, m := range [][]byte{
		newMessage(t, map[string]any{"a": []string{"1", "2"}, "b": json.Number("18446744073709551615")}, time.Time{}),
		newMessage(t, map[string]any{"a": []string{"3"}}, c.t.Add(time.Hour)),
	} {
		if err := r.Register(m); err != nil {
			t.Fatal(err)
		}
	}
	again := open(t, dir, c)
	v, ok := again.Query("a")
	if got := fmt.Sprint(v); !ok || got != "[3]" {
		t.Fatalf("a is %s", got)
	}
	if v, ok := again.Query("b"); !ok || fmt.Sprint(v) != "18446744073709551615" {
		t.Fatalf("b is %v", v)
	}
	c.t = c.t.Add(time.Hour)
	if v, ok := again.Query("a"); ok {
		t.Fatalf("expired a is %v", v)
	}
	if _, ok := again.Query("b"); !ok {
		t.Fatal("b is gone with a")
	}
	if l := again.List(); len(l) != 2 || l[0].Name != "a" || l[1].Expiration != time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC) {
		t.Fatalf("list %+v", l)
	}
	if err := errors.Join(again.Delete("a"), again.Delete("b")); err != nil {
		t.Fatal(err)
	}
	if err := again.Delete("a"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("second removal: %v", err)
	}
}

func TestConcurrentRegistrationsAreAllKept(t *testing.T) {
	t.Parallel()
	dir, c := t.TempDir(), &clock{t: time.Now()}
	r := open(t, dir, c)
	var wg sync.WaitGroup
	for i := range 16 {
		m := newMessage(t, map[string]any{fmt.Sprint("n", i): i}, time.Time{})
		wg.Go(func() {
			if err := r.Register(m); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(open(t, dir, c).List()); n != 16 {
		t.Fatalf("%d values, want 16", n)
	}
}

func TestMessagesThatAreRefusedChangeNothing(t *testing.T) {
	t.Parallel()
	c := &clock{t: time.Now()}
	r := open(t, t.TempDir(), c)
	wrap := func(payload string) []byte {
		return fmt.Appendf(nil, `{"version":"0.1.0","type":"sample","payload":%q}`, base64.StdEncoding.EncodeToString([]byte(payload)))
	}
	many := map[string]any{}
	for i := range maxNames + 1 {
		many[fmt.Sprint(i)] = i
	}
	for name, m := range map[string][]byte{
		"empty": nil, "no object": []byte("7"), "list": wrap(`["a"]`), "trailing": wrap(`{"a":1} {}`), "text": wrap("x"), "deep": wrap(strings.Repeat("[", 1<<20)),
		"too many":  newMessage(t, many, time.Time{}),
		"long name": newMessage(t, map[string]any{strings.Repeat("n", maxName+1): 1}, time.Time{}),
		"no name":   newMessage(t, map[string]any{"": 1}, time.Time{}),
		"wildcard":  newMessage(t, map[string]any{"snp_*": 1}, time.Time{}),
		"question":  newMessage(t, map[string]any{"snp?": 1}, time.Time{}),
		"blank end": newMessage(t, map[string]any{"snp ": 1}, time.Time{}),
		"odd name":  newMessage(t, map[string]any{"a\n": 1}, time.Time{}),
		"one bad":   newMessage(t, map[string]any{"good": 1, "bad": nil}, time.Time{}),
		"past":      newMessage(t, map[string]any{"a": 1}, c.t),
	} {
		if err := r.Register(m); !errors.Is(err, ErrBadMessage) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if l := r.List(); len(l) != 0 {
		t.Fatalf("values %+v", l)
	}
}

func TestABrokenFileIsNotAnEmptyRegistry(t *testing.T) {
	t.Parallel()
	for _, text := range []string{``, ` `, `{"a":`, `null`, `[]`, `"a"`, `{"a":1}`, `{} {}`, `{}x`, `{"a":{"expiration":"soon"}}`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := store.OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := Open(d, time.Now); err == nil {
			t.Errorf("%q: opened with %v", text, r.List())
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestAnExpiredValueComesBackOnlyWhenRegisteredAnew(t *testing.T) {
	t.Parallel()
	dir, c := t.TempDir(), &clock{t: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}
	r := open(t, dir, c)
	for _, expires := range []time.Time{c.t, c.t.Add(-time.Second), time.Unix(0, 0)} {
		if err := r.Register(newMessage(t, map[string]any{"a": 1}, expires)); !errors.Is(err, ErrBadMessage) {
			t.Errorf("expiration %s: %v", expires, err)
		}
	}
	if err := r.Register(newMessage(t, map[string]any{"a": 1}, c.t.Add(time.Minute))); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		forward time.Duration
		found   bool
	}{{0, true}, {59 * time.Second, true}, {time.Second, false}, {time.Hour, false}} {
		c.t = c.t.Add(step.forward)
		for name, r := range map[string]*Registry{"open": r, "opened anew": open(t, dir, c)} {
			if v, ok := r.Query("a"); ok != step.found || !ok && v != nil {
				t.Errorf("%s at %s: %v %v", name, c.t, v, ok)
			}
			if _, ok := r.Query("A"); ok {
				t.Error("names differ by case")
			}
		}
	}
	before := r.Edits()
	if err := r.Register(newMessage(t, map[string]any{"a": 2}, time.Time{})); err != nil {
		t.Fatal(err)
	}
	if v, ok := r.Query("a"); !ok || fmt.Sprint(v) != "2" || r.Edits() != before+1 {
		t.Errorf("registered anew: %v %v, %d changes", v, ok, r.Edits())
	}
}

func FuzzMessage(f *testing.F) {
	f.Add(newMessage(f, map[string]any{"a": []int{1}}, time.Time{}))
	f.Add(newMessage(f, map[string]any{"svn": "1", "b": true}, time.Unix(1, 0)))
	f.Add([]byte(`{"version":"0.1.0","type":"sample","payload":"e30="}`))
	f.Add([]byte(`{"version":"0.1.0","type":"sample","payload":"e30=","expiration":"x"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		reg, err := parseMessage(raw, nil)
		if err != nil {
			if !errors.Is(err, ErrBadMessage) {
				t.Fatalf("error %v is not ErrBadMessage", err)
			}
			return
		}
		again, err := NewMessage(reg.values, reg.expires)
		if err != nil {
			t.Skip("an expiration that no RFC 3339 text has")
		}
		back, err := parseMessage(again, nil)
		if err != nil || len(back.values) != len(reg.values) {
			t.Fatalf("%d values came back otherwise: %v", len(reg.values), err)
		}
	})
}
