// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"bytes"
	"net/url"
	"strings"

	"github.com/CycloneDX/cyclonedx-go"

	"cocoon/mkimage/manifest"
)

// sbom lists what is in an image, in the format of CycloneDX 1.6: the packages
// that it was made from, the modules of its kernel, and the Go modules of its
// binary. There is no time in it.
func sbom(m *manifest.Manifest) ([]byte, error) {
	bom := cyclonedx.NewBOM()
	bom.SerialNumber = "urn:uuid:" + identifier("sbom", m)
	bom.Metadata = &cyclonedx.Metadata{Component: &cyclonedx.Component{
		BOMRef: "image", Type: cyclonedx.ComponentTypeOS, Name: "cocoon-" + m.Profile, Version: m.Tree, Hashes: hashesOf(m.Outputs),
	}}
	var all []cyclonedx.Component
	for _, in := range m.Inputs {
		all = append(all, input(in))
	}
	for _, mod := range m.Modules {
		all = append(all, cyclonedx.Component{
			BOMRef: "module:" + mod.Path, Type: cyclonedx.ComponentTypeDeviceDriver, Name: mod.Path, Version: m.Release, Hashes: sha256Of(mod.SHA256),
		})
	}
	for _, mod := range m.Tools.Modules {
		purl := "pkg:golang/" + mod.Path + "@" + url.PathEscape(mod.Version)
		all = append(all, cyclonedx.Component{
			BOMRef: purl, Type: cyclonedx.ComponentTypeLibrary, Name: mod.Path, Version: mod.Version, PackageURL: purl,
		})
	}
	all = append(all, cyclonedx.Component{
		BOMRef: "go", Type: cyclonedx.ComponentTypeLibrary, Name: "std", Version: strings.TrimPrefix(m.Tools.BinaryGo, "go"),
		PackageURL: "pkg:golang/std@" + strings.TrimPrefix(m.Tools.BinaryGo, "go"),
	})
	bom.Components = &all
	var out bytes.Buffer
	err := cyclonedx.NewBOMEncoder(&out, cyclonedx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).EncodeVersion(bom, cyclonedx.SpecVersion1_6)
	return out.Bytes(), err
}

// input describes a file that the image was made from. A Debian package is
// named name_version_architecture.deb.
func input(f manifest.File) cyclonedx.Component {
	c := cyclonedx.Component{BOMRef: "input:" + f.Name, Type: cyclonedx.ComponentTypeFile, Name: f.Name, Hashes: sha256Of(f.SHA256)}
	base, isDeb := strings.CutSuffix(f.File, ".deb")
	part := strings.Split(base, "_")
	if !isDeb || len(part) != 3 {
		return c
	}
	version, err := url.PathUnescape(part[1]) // an epoch's colon is escaped in a file's name
	if err != nil {
		return c
	}
	c.Type, c.Name, c.Version = cyclonedx.ComponentTypeLibrary, part[0], version
	c.PackageURL = "pkg:deb/debian/" + url.PathEscape(part[0]) + "@" + url.PathEscape(version) + "?arch=" + part[2]
	return c
}

func sha256Of(digest string) *[]cyclonedx.Hash {
	return &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: digest}}
}

// hashesOf names the image by its initramfs or its unified kernel image; the
// others are in the provenance.
func hashesOf(outputs []manifest.File) *[]cyclonedx.Hash {
	for _, o := range outputs {
		if o.Name == "initrd" || o.Name == "uki" {
			return sha256Of(o.SHA256)
		}
	}
	return nil
}
