// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/bounded"
	"cocoon/mkimage/manifest"
)

func TestDescribeGivesKnownDigests(t *testing.T) {
	t.Parallel()
	got := manifest.Describe("x", "abc.txt", []byte("abc"))
	want := manifest.File{
		Name: "x", File: "abc.txt", Size: 3,
		SHA256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		SHA384: "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestAManifestSurvivesEncoding(t *testing.T) {
	t.Parallel()
	in := &manifest.Manifest{
		Schema: manifest.Schema, Profile: "dev", Cmdline: "a=<b>", Outputs: []manifest.File{manifest.Describe("initrd", "i", nil)},
	}
	b, err := in.Encode()
	if err != nil {
		t.Fatal(err)
	}
	out, err := manifest.Decode(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, out); diff != "" {
		t.Errorf("manifest differs (-want +got):\n%s", diff)
	}
	if f, err := out.Output("initrd"); err != nil || f.File != "i" {
		t.Errorf("output is %+v, %v", f, err)
	}
	if _, err := out.Output("kernel"); !errors.Is(err, manifest.ErrInvalid) {
		t.Errorf("a missing output gives %v", err)
	}
}

func TestMalformedManifestsAreRefused(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{
		"empty": "", "no JSON": "hello", "other schema": `{"schema":"cocoon.manifest/1"}`, "no schema": `{}`,
		"unknown field": `{"schema":"cocoon.manifest/2","extra":1}`, "trailing": `{"schema":"cocoon.manifest/2"} {}`,
		"wrong type": `{"schema":1}`,
	} {
		if _, err := manifest.Decode(strings.NewReader(in)); !errors.Is(err, manifest.ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
	}
	if _, err := manifest.Decode(strings.NewReader(strings.Repeat(" ", 5<<20))); !errors.Is(err, bounded.ErrTooLarge) {
		t.Errorf("a huge manifest gives %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"schema":"cocoon.manifest/1","profile":"dev","outputs":[{"name":"initrd","file":"i","size":1,"sha256":"00"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := manifest.Decode(bytes.NewReader(b))
		if err != nil {
			return
		}
		enc, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := manifest.Decode(bytes.NewReader(enc)); err != nil {
			t.Errorf("what was accepted cannot be read again: %v", err)
		}
	})
}
