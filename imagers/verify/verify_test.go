// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package verify_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"cocoon/imagers/verify"
	"cocoon/internal/stage"
)

const (
	accept = `[{"type":"insecureAcceptAnything"}]`
	reject = `[{"type":"reject"}]`
)

func reference(t testing.TB, s string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func TestTheMostSpecificScopeDecides(t *testing.T) {
	t.Parallel()
	hub := strings.TrimPrefix(name.DefaultRegistry, "index.")
	p, err := verify.Parse([]byte(`{"default":` + reject + `,"transports":{"docker":{
		"r.example.com":` + accept + `,"r.example.com/closed":` + reject + `,"r.example.com/closed/but:v1":` + accept + `,
		"*.wild.example.com":` + accept + `,"port.example.com:5000":` + accept + `,"` + hub + `/library/busybox":` + accept + `},"oci":{"":` + accept + `}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for image, ok := range map[string]bool{
		"r.example.com/a": true, "r.example.com/closed/a": false, "r.example.com/closed/but:v1": true, "r.example.com/closed/but:v2": false,
		"r.example.com/closedx": true, "a.b.wild.example.com/x": true, "wild.example.com/x": false, "port.example.com:5000/x": true, "port.example.com/x": false,
		"busybox": true, "other": false, "evil.example/r.example.com/a": false, "other.example.com/x": false,
	} {
		err := p.Check(reference(t, image))
		if ok != (err == nil) {
			t.Errorf("%s: %v", image, err)
		}
		if err != nil && (!errors.Is(err, verify.ErrDenied) || stage.Of(err) != stage.ImagePolicy) {
			t.Errorf("%s: %v", image, err)
		}
	}
}

func TestAllRequirementsOfAScopeMustPass(t *testing.T) {
	t.Parallel()
	p, err := verify.Parse([]byte(`{"default":[{"type":"insecureAcceptAnything"},{"type":"reject"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Check(reference(t, "a")); !errors.Is(err, verify.ErrDenied) {
		t.Errorf("got %v", err)
	}
}

func TestWithoutAPolicyEveryImageIsAccepted(t *testing.T) {
	t.Parallel()
	if err := (*verify.Policy)(nil).Check(reference(t, "a")); err != nil {
		t.Error(err)
	}
}

func TestPoliciesThatCannotBeCheckedAreErrors(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", "{}", "[]", `{"default":[]}`, `{"default":null}`, `{"transports":{}}`, `{"default":[{}]}`, `{"default":[{"type":"Reject"}]}`,
		`{"default":[{"type":"signedBy"}]}`, `{"default":[{"type":"sigstoreSigned","keyPath":"/k"}]}`,
		`{"default":` + accept + `,"transports":{"docker":{"a":[]}}}`, `{"default":` + accept + `,"transports":{"docker":{"a":[{"type":"signedBy"}]}}}`,
		`{"default":` + accept + strings.Repeat(" ", 1<<20) + `}`,
	} {
		if p, err := verify.Parse([]byte(s)); !errors.Is(err, verify.ErrPolicy) || stage.Of(err) != stage.ImagePolicy || p != nil {
			t.Errorf("%.60q: %v", s, err)
		}
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add([]byte(`{"default":` + accept + `,"transports":{"docker":{"*.example.com":` + reject + `}}}`))
	ref := reference(f, "r.example.com/a/b:t")
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := verify.Parse(data)
		if (err == nil) == (p == nil) {
			t.Fatal("a policy and an error, or neither")
		}
		if err == nil && !strings.Contains(string(data), "insecureAcceptAnything") && !strings.Contains(string(data), `\u`) && p.Check(ref) == nil {
			t.Error("accepted without being told to")
		}
	})
}
