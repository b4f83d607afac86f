// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package manifest describes an image: what went in, what came out, each with
// its digest. Reference values are computed from it alone, so it is a function
// of the inputs: no times, no host names, no paths of the building machine.
package manifest

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"

	"cocoon/internal/bounded"
)

// Schema is the version of the format.
const Schema = "cocoon.manifest/2"

// Name is the name of the manifest in an image's directory.
const Name = "manifest.json"

// maxManifest bounds a manifest that is read; a real one has about 10 KiB.
const maxManifest = 4 << 20

// ErrInvalid is wrapped by errors about the content of a manifest.
var ErrInvalid = errors.New("invalid manifest")

// Manifest is the content of the file. Fields are in the order in which they
// are written.
type Manifest struct {
	Schema  string `json:"schema"`
	Profile string `json:"profile"`
	// Guest is the profile's name in the guest, Layout where its root is, and
	// TEEs are those that measure it.
	Guest  string   `json:"guest"`
	Layout string   `json:"layout"`
	TEEs   []string `json:"tees,omitempty"`
	// Epoch is SOURCE_DATE_EPOCH, Unix seconds.
	Epoch int64 `json:"source_date_epoch"`
	// Release is the kernel's.
	Release string `json:"kernel_release"`
	Cmdline string `json:"cmdline"`
	// MemoryMiB is what the guest needs at least.
	MemoryMiB int `json:"memory_mib"`
	// Tree is the digest of the root as an uncompressed initramfs. It names the
	// root's content in every layout.
	Tree string `json:"root_tree"`
	// Verity are the parameters of a root on a disk.
	Verity  *Verity  `json:"verity,omitempty"`
	Inputs  []File   `json:"inputs"`
	Outputs []File   `json:"outputs"`
	Modules []Module `json:"modules"`
	Tools   Tools    `json:"tools"`
}

// File is an input or output.
type File struct {
	// Name is the role: "kernel", "initrd", "binary" and so on.
	Name string `json:"name"`
	// File is the base name.
	File   string `json:"file"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	SHA384 string `json:"sha384,omitempty"`
}

// Verity are the parameters of dm-verity, by which the kernel checks a root on
// a disk.
type Verity struct {
	RootHash      string `json:"root_hash"`
	Salt          string `json:"salt"`
	DataBlocks    uint64 `json:"data_blocks"`
	DataBlockSize uint64 `json:"data_block_size"`
	HashBlockSize uint64 `json:"hash_block_size"`
	// Text is all of it as a kata shim takes it.
	Text string `json:"verity_params"`
}

// Module is a kernel module of the image, in the order of loading.
type Module struct {
	Path     string `json:"path"`
	Optional bool   `json:"optional,omitempty"`
	SHA256   string `json:"sha256"`
}

// Tools are the versions of what made the image.
type Tools struct {
	Go string `json:"go"`
	// BinaryGo and Modules are what the guest binary says about itself.
	BinaryGo string     `json:"binary_go"`
	Modules  []GoModule `json:"binary_modules"`
}

// GoModule is a module that is linked into the guest binary.
type GoModule struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	Sum     string `json:"sum"`
}

// Describe returns the entry of a file with the given content.
func Describe(name, file string, content []byte) File {
	d256, d384 := sha256.Sum256(content), sha512.Sum384(content)
	return File{
		Name: name, File: file, Size: int64(len(content)),
		SHA256: hex.EncodeToString(d256[:]), SHA384: hex.EncodeToString(d384[:]),
	}
}

// Encode returns the bytes of the file.
func (m *Manifest) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the manifest: %w", err)
	}
	return append(b, '\n'), nil
}

// Decode reads a manifest and refuses unknown fields and schemas.
func Decode(r io.Reader) (*Manifest, error) {
	b, err := bounded.ReadAll(r, maxManifest)
	if err != nil {
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var m Manifest
	if err := dec.Decode(&m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if dec.More() {
		return nil, fmt.Errorf("%w: data after its end", ErrInvalid)
	}
	if m.Schema != Schema {
		return nil, fmt.Errorf("%w: schema %q, not %q", ErrInvalid, m.Schema, Schema)
	}
	return &m, nil
}

// Output returns the output called name.
func (m *Manifest) Output(name string) (File, error) {
	for _, f := range m.Outputs {
		if f.Name == name {
			return f, nil
		}
	}
	return File{}, fmt.Errorf("%w: no output %q", ErrInvalid, name)
}

// Digester writes to another writer and describes what went there.
type Digester struct {
	w    io.Writer
	size int64
	s256 hash.Hash
	s384 hash.Hash
}

// NewDigester returns a Digester that writes to w.
func NewDigester(w io.Writer) *Digester {
	return &Digester{w: w, s256: sha256.New(), s384: sha512.New384()}
}

// Write implements io.Writer.
func (d *Digester) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	d.size += int64(n)
	d.s256.Write(p[:n])
	d.s384.Write(p[:n])
	return n, err
}

// File returns the entry of what was written.
func (d *Digester) File(name, file string) File {
	return File{Name: name, File: file, Size: d.size, SHA256: hex.EncodeToString(d.s256.Sum(nil)), SHA384: hex.EncodeToString(d.s384.Sum(nil))}
}
