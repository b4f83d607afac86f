// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package release makes the documents that lie beside an image for people who
// did not build it: what is in it, and from what it was made. They follow from
// the manifest alone, so that they are the same for everybody who builds the
// image, and anybody can make them again.
//
// Nothing here is signed: a signature is whoever releases the image's, and lies
// in a file of its own.
package release

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"cocoon/mkimage/manifest"
)

// Names of the documents' files.
const (
	SBOMFile       = "sbom.cdx.json"
	ProvenanceFile = "provenance.json"
)

// Document is one file.
type Document struct {
	File string
	Data []byte
}

// Documents returns all documents of an image.
func Documents(m *manifest.Manifest) ([]Document, error) {
	var docs []Document
	for _, d := range []struct {
		file string
		make func(*manifest.Manifest) ([]byte, error)
	}{{SBOMFile, sbom}, {ProvenanceFile, provenance}, {UploadFile, upload}, {SealFile, seal}} {
		data, err := d.make(m)
		if err != nil {
			return nil, fmt.Errorf("make %s: %w", d.file, err)
		}
		if len(data) == 0 {
			continue
		}
		docs = append(docs, Document{File: d.file, Data: append(bytes.TrimRight(data, "\n"), '\n')})
	}
	return docs, nil
}

// identifier is a UUID of version 8 that follows from the image: its root, and
// what was made of it.
func identifier(label string, m *manifest.Manifest) string {
	h := sha256.New()
	fmt.Fprintf(h, "cocoon:%s\x00%s", label, m.Tree)
	for _, o := range m.Outputs {
		fmt.Fprintf(h, "\x00%s %s", o.Name, o.SHA256)
	}
	b := h.Sum(nil)[:16]
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
