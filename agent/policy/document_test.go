// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStateChangesFollowRFC6902(t *testing.T) {
	t.Parallel()
	const start = `{"pstate":{"a":1,"list":[1,2,3],"s/l~":"x","big":18446744073709551615}}`
	for name, tc := range map[string]struct{ ops, want string }{ // want "" is an error
		"add member":               {`[{"op":"add","path":"/pstate/b","value":{"c":null}}]`, `{"pstate":{"a":1,"b":{"c":null},"list":[1,2,3],"s/l~":"x","big":18446744073709551615}}`},
		"add null":                 {`[{"op":"add","path":"/pstate/a","value":null}]`, `{"pstate":{"a":null,"list":[1,2,3],"s/l~":"x","big":18446744073709551615}}`},
		"add over existing":        {`[{"op":"add","path":"/pstate/a","value":2}]`, `{"pstate":{"a":2,"list":[1,2,3],"s/l~":"x","big":18446744073709551615}}`},
		"append":                   {`[{"op":"add","path":"/pstate/list/-","value":4}]`, `{"pstate":{"a":1,"list":[1,2,3,4],"s/l~":"x","big":18446744073709551615}}`},
		"insert":                   {`[{"op":"add","path":"/pstate/list/0","value":0}]`, `{"pstate":{"a":1,"list":[0,1,2,3],"s/l~":"x","big":18446744073709551615}}`},
		"remove escaped":           {`[{"op":"remove","path":"/pstate/s~1l~0"}]`, `{"pstate":{"a":1,"list":[1,2,3],"big":18446744073709551615}}`},
		"remove element":           {`[{"op":"remove","path":"/pstate/list/1"}]`, `{"pstate":{"a":1,"list":[1,3],"s/l~":"x","big":18446744073709551615}}`},
		"replace":                  {`[{"op":"replace","path":"/pstate","value":{}}]`, `{"pstate":{}}`},
		"move":                     {`[{"op":"move","from":"/pstate/list","path":"/pstate/a"},{"op":"remove","path":"/pstate/big"},{"op":"remove","path":"/pstate/s~1l~0"}]`, `{"pstate":{"a":[1,2,3]}}`},
		"copy":                     {`[{"op":"copy","from":"/pstate/list","path":"/x"},{"op":"remove","path":"/pstate"}]`, `{"x":[1,2,3]}`},
		"test holds":               {`[{"op":"test","path":"/pstate/a","value":1},{"op":"replace","path":"/pstate","value":{}}]`, `{"pstate":{}}`},
		"number kept exactly":      {`[{"op":"add","path":"/n","value":9007199254740993},{"op":"remove","path":"/pstate"}]`, `{"n":9007199254740993}`},
		"no change":                {`[]`, start},
		"test fails":               {`[{"op":"test","path":"/pstate/a","value":2}]`, ""},
		"add to missing parent":    {`[{"op":"add","path":"/pstate/x/y","value":1}]`, ""},
		"add beyond the end":       {`[{"op":"add","path":"/pstate/list/9","value":1}]`, ""},
		"negative index":           {`[{"op":"remove","path":"/pstate/list/-1"}]`, ""},
		"remove missing":           {`[{"op":"remove","path":"/pstate/x"}]`, ""},
		"replace missing":          {`[{"op":"replace","path":"/pstate/x","value":1}]`, ""},
		"move missing":             {`[{"op":"move","from":"/pstate/x","path":"/pstate/y"}]`, ""},
		"second fails":             {`[{"op":"remove","path":"/pstate/a"},{"op":"remove","path":"/pstate/a"}]`, ""},
		"no pointer":               {`[{"op":"remove","path":"pstate"}]`, ""},
		"no path":                  {`[{"op":"remove"}]`, ""},
		"no value":                 {`[{"op":"add","path":"/x"}]`, ""},
		"no from":                  {`[{"op":"move","path":"/x"}]`, ""},
		"from no pointer":          {`[{"op":"copy","from":"x","path":"/x"}]`, ""},
		"unknown op":               {`[{"op":"merge","path":"/x","value":1}]`, ""},
		"op no string":             {`[{"op":1,"path":"/x","value":1}]`, ""},
		"no op":                    {`[{"path":"/x","value":1}]`, ""},
		"null operation":           {`[null]`, ""},
		"no array":                 {`{"op":"remove","path":"/pstate"}`, ""},
		"whole document no object": {`[{"op":"replace","path":"","value":[]}]`, ""},
		"hides the policy":         {`[{"op":"add","path":"/agent_policy","value":{"CreateContainerRequest":true}}]`, ""},
		"too many":                 {"[" + strings.Repeat(`{"op":"add","path":"/x","value":1},`, maxOps) + `{"op":"remove","path":"/x"}]`, ""},
		"too large":                {`[{"op":"add","path":"/x","value":"` + strings.Repeat("x", maxStateBytes) + `"}]`, ""},
		"copy bomb":                {copyBomb(40), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, err := newDocument([]byte(start))
			if err != nil {
				t.Fatal(err)
			}
			got, err := change1(d, tc.ops)
			if tc.want == "" {
				if !errors.Is(err, errBadPatch) {
					t.Errorf("got %v, want errBadPatch", err)
				}
			} else if err != nil {
				t.Errorf("got %v", err)
			} else if diff := cmp.Diff(tree(t, tc.want), tree(t, string(got.raw))); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if string(d.raw) != start {
				t.Errorf("the version before changed to %s", d.raw)
			}
		})
	}
}

// copyBomb doubles the state n times.
func copyBomb(n int) string {
	var ops []string
	for i := range n {
		ops = append(ops, fmt.Sprintf(`{"op":"copy","from":"/pstate","path":"/pstate/c%d"}`, i))
	}
	return "[" + strings.Join(ops, ",") + "]"
}

func change1(d document, ops string) (document, error) {
	p, err := parseOps([]byte(ops))
	if err != nil {
		return document{}, err
	}
	return d.apply(p)
}

func FuzzStateChange(f *testing.F) {
	f.Add(`[{"op":"add","path":"/pstate/a","value":1}]`)
	f.Add(`[{"op":"move","from":"/pstate/list","path":"/pstate/list/0"}]`)
	f.Add(`[{"op":"copy","from":"","path":"/pstate/list/-"}]`)
	f.Add(`[{"op":"test","path":"/pstate/list/00","value":null},{"op":"remove","path":"/pstate/~2"}]`)
	f.Add(`[{"op":"replace","path":"","value":{}}]`)
	f.Fuzz(func(t *testing.T, ops string) {
		const start = `{"pstate":{"a":null,"list":[1,{"b":2}]}}`
		d, err := newDocument([]byte(start))
		if err != nil {
			t.Fatal(err)
		}
		got, err := change1(d, ops)
		if err != nil {
			if !errors.Is(err, errBadPatch) {
				t.Errorf("got %v, want errBadPatch", err)
			}
			return
		}
		if _, err := newDocument(got.raw); err != nil {
			t.Errorf("the result is no document: %v", err)
		}
		if string(d.raw) != start {
			t.Errorf("the version before changed to %s", d.raw)
		}
	})
}
