// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package release_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/CycloneDX/cyclonedx-go"

	"cocoon/mkimage/manifest"
	"cocoon/mkimage/release"
)

func image() *manifest.Manifest {
	return &manifest.Manifest{
		Schema: manifest.Schema, Profile: "snp", Release: "6.12", Cmdline: "a=<b>", Tree: "sha256:aa", Epoch: 7,
		Inputs: []manifest.File{
			manifest.Describe("kernel-package", "linux-image-x_1%3a6.12-1~bpo12+1_amd64.deb", []byte("deb")),
			manifest.Describe("binary", "cocoon", []byte("elf")),
		},
		Outputs: []manifest.File{manifest.Describe("kernel", "vmlinuz", []byte("k")), manifest.Describe("initrd", "initrd.img", []byte("i"))},
		Modules: []manifest.Module{{Path: "/lib/modules/6.12/a.ko", SHA256: strings.Repeat("ab", 32)}},
		Tools:   manifest.Tools{BinaryGo: "go1.26.1", Modules: []manifest.GoModule{{Path: "example.com/m", Version: "v1.2.3", Sum: "h1:x"}}},
	}
}

func documents(t *testing.T, m *manifest.Manifest) map[string][]byte {
	t.Helper()
	docs, err := release.Documents(m)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, d := range docs {
		all[d.File] = d.Data
	}
	return all
}

func TestTheSBOMListsEverything(t *testing.T) {
	t.Parallel()
	var bom cyclonedx.BOM
	if err := cyclonedx.NewBOMDecoder(bytes.NewReader(documents(t, image())[release.SBOMFile]), cyclonedx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	if bom.SpecVersion != cyclonedx.SpecVersion1_6 || bom.Metadata.Timestamp != "" || bom.Metadata.Component.Name != "cocoon-snp" || !strings.HasPrefix(bom.SerialNumber, "urn:uuid:") {
		t.Errorf("%+v", bom)
	}
	got := map[string]string{}
	for _, c := range *bom.Components {
		got[c.BOMRef] = c.PackageURL + " " + c.Version
	}
	for ref, want := range map[string]string{
		"input:kernel-package":            "pkg:deb/debian/linux-image-x@1:6.12-1~bpo12+1?arch=amd64 1:6.12-1~bpo12+1",
		"input:binary":                    " ",
		"module:/lib/modules/6.12/a.ko":   " 6.12",
		"pkg:golang/example.com/m@v1.2.3": "pkg:golang/example.com/m@v1.2.3 v1.2.3",
		"go":                              "pkg:golang/std@1.26.1 1.26.1",
	} {
		if got[ref] != want {
			t.Errorf("%s is %q, want %q", ref, got[ref], want)
		}
	}
	if len(got) != 5 {
		t.Errorf("components are %v", got)
	}
}

func TestTheProvenanceNamesInputsAndOutputs(t *testing.T) {
	t.Parallel()
	m := image()
	text := documents(t, m)[release.ProvenanceFile]
	var s struct {
		Type      string `json:"_type"`
		Subject   []struct{ Digest map[string]string }
		Predicate struct {
			BuildDefinition struct {
				ExternalParameters   map[string]any
				ResolvedDependencies []struct{ Digest map[string]string }
			}
		}
	}
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	d := s.Predicate.BuildDefinition
	if s.Type != "https://in-toto.io/Statement/v1" || len(s.Subject) != 3 || s.Subject[1].Digest["sha256"] != m.Outputs[0].SHA256 ||
		len(d.ResolvedDependencies) != 2 || d.ResolvedDependencies[1].Digest["sha256"] != m.Inputs[1].SHA256 || d.ExternalParameters["profile"] != "snp" {
		t.Errorf("%s", text)
	}
}

func TestDocumentsFollowFromTheManifestAlone(t *testing.T) {
	t.Parallel()
	one, two := documents(t, image()), documents(t, image())
	other := image()
	other.Outputs[1] = manifest.Describe("initrd", "initrd.img", []byte("j"))
	changed := documents(t, other)
	for file := range one {
		if !bytes.Equal(one[file], two[file]) {
			t.Errorf("%s differs between two runs", file)
		}
		if bytes.Equal(one[file], changed[file]) {
			t.Errorf("%s is the same for another image", file)
		}
	}
}

func TestAnImageThatBootsItselfSaysHowToBringItToEachCloud(t *testing.T) {
	t.Parallel()
	m := image()
	if text, ok := documents(t, m)[release.UploadFile]; ok {
		t.Errorf("an image of a shim: %s", text)
	}
	m.Outputs = []manifest.File{manifest.Describe("uki", "cocoon.efi", []byte("program"))}
	for form, want := range map[string]string{"raw": "--boot-mode uefi --tpm-support v2.0", "vhd": "upload --type page", "gcp": "gcloud compute images create", "qcow2": "virsh vol-upload"} {
		one := *m
		one.Outputs = append(one.Outputs[:1:1], manifest.Describe("disk-"+form, "disk."+form, make([]byte, 3<<20+512)))
		text := string(documents(t, &one)[release.UploadFile])
		if !strings.Contains(text, want) || !strings.Contains(text, m.Outputs[0].SHA256) || !strings.Contains(text, "disk."+form) || strings.Count(text, "\n## ") != 1 {
			t.Errorf("%s:\n%s", form, text)
		}
		if form == "vhd" && !strings.Contains(text, "has 3 MiB") {
			t.Errorf("size of the VHD:\n%s", text)
		}
	}
	m.Outputs = []manifest.File{manifest.Describe("disk-raw", "disk.raw", nil)}
	if docs, err := release.Documents(m); err == nil {
		t.Errorf("a disk without a program: %v", docs)
	}
}
