// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package initdata reads the document by which a pod's owner configures a
// guest, and computes the digest that binds it to the hardware.
//
// The document is TOML and travels gzip-compressed: as base64 in an annotation
// or in peer-pod user-data, or raw on a block device behind a small header. It
// always comes from the host, who may send anything; it becomes trustworthy
// only when its digest equals what the hardware reports (see Matches). Every
// function here is pure.
package initdata

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"

	"cocoon/internal/bounded"
	"cocoon/internal/config/shallow"
)

// Limits on what a host may hand over.
const (
	// MaxCompressed is the most bytes of a gzip stream.
	MaxCompressed = 4 << 20
	// MaxDocument is the most bytes of the TOML document.
	MaxDocument = 16 << 20
)

// Version is the only version of the format.
const Version = "0.1.0"

// The keys of Document.Data that the guest uses. Other keys are kept, since
// the digest covers them, and ignored.
const (
	KeyAA     = "aa.toml"
	KeyCDH    = "cdh.toml"
	KeyPolicy = "policy.rego"
)

// Errors that callers tell apart.
var (
	// ErrNoMagic is returned for a block device that holds no initdata; such a
	// device is somebody else's disk, not an attack.
	ErrNoMagic = errors.New("no initdata magic")
	// ErrAlgorithm is returned for a digest algorithm that is not one of
	// sha256, sha384 and sha512.
	ErrAlgorithm = errors.New("unknown digest algorithm")
	// ErrVersion is returned for a document of another version.
	ErrVersion = errors.New("unknown initdata version")
	// ErrFormat is returned for everything else that is not initdata.
	ErrFormat = errors.New("malformed initdata")
	// ErrMismatch is returned when a document is not the one that the hardware
	// was started with.
	ErrMismatch = errors.New("initdata digest differs from the hardware's")
	// ErrWithheld is returned when there is no document although the hardware
	// was started with one.
	ErrWithheld = errors.New("the hardware was started with initdata, and there is none")
)

// Document is a parsed initdata document.
type Document struct {
	// Algorithm is sha256, sha384 or sha512.
	Algorithm string
	// Data holds the files of the [data] table by name.
	Data map[string]string
	// Raw is the document byte for byte as the owner wrote it; the digest is
	// over these bytes.
	Raw []byte
}

// Options relax the parser where two peers differ.
type Options struct {
	// AnyVersion accepts every version string, and its absence, as the
	// peer-pod provisioner does; the Kata agent insists on Version.
	AnyVersion bool
}

// Parse reads a raw TOML document.
func Parse(raw []byte, opt Options) (*Document, error) {
	var doc struct {
		Version   string            `toml:"version"`
		Algorithm string            `toml:"algorithm"`
		Data      map[string]string `toml:"data"`
	}
	if _, err := shallow.Decode(raw, MaxDocument, &doc); err != nil {
		return nil, fmt.Errorf("parse initdata: %w", malformed(err))
	}
	if doc.Version != Version && !opt.AnyVersion {
		return nil, fmt.Errorf("parse initdata: version %.40q: %w", doc.Version, ErrVersion)
	}
	if digest(doc.Algorithm, nil) == nil {
		return nil, fmt.Errorf("parse initdata: algorithm %.40q: %w", doc.Algorithm, ErrAlgorithm)
	}
	if doc.Data == nil {
		doc.Data = map[string]string{}
	}
	return &Document{Algorithm: doc.Algorithm, Data: doc.Data, Raw: bytes.Clone(raw)}, nil
}

// ParseBase64 reads base64(gzip(TOML)), the form of the pod annotation and of
// peer-pod user-data. Line breaks inside the base64 text are allowed.
func ParseBase64(text []byte, opt Options) (*Document, error) {
	// Line breaks may add to the encoded length, but not without limit.
	if len(text) > 2*MaxCompressed {
		return nil, fmt.Errorf("decode initdata: %w", bounded.ErrTooLarge)
	}
	gz, err := base64.StdEncoding.AppendDecode(nil, bytes.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("decode initdata: not base64: %w", ErrFormat)
	}
	return ParseGzip(gz, opt)
}

// ParseGzip reads gzip(TOML).
func ParseGzip(gz []byte, opt Options) (*Document, error) {
	if len(gz) > MaxCompressed {
		return nil, fmt.Errorf("decompress initdata: %w", bounded.ErrTooLarge)
	}
	r, err := gzip.NewReader(bytes.NewReader(gz))
	if err != nil {
		return nil, fmt.Errorf("decompress initdata: %w", malformed(err))
	}
	raw, err := bounded.ReadAll(r, MaxDocument)
	if errors.Is(err, bounded.ErrTooLarge) {
		return nil, fmt.Errorf("decompress initdata: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("decompress initdata: %w", malformed(err))
	}
	return Parse(raw, opt)
}

// deviceHeader is the magic and the length in front of the gzip stream on a
// block device.
const (
	deviceMagic  = "initdata"
	deviceHeader = len(deviceMagic) + 8
)

// ReadDevice reads the block-device form: the magic, the length of the gzip
// stream as a little-endian 64-bit number, and the stream. It returns
// ErrNoMagic for a device that does not begin with the magic.
func ReadDevice(r io.Reader, opt Options) (*Document, error) {
	head := make([]byte, deviceHeader)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("read initdata header: %w", err)
	}
	if n < len(deviceMagic) || string(head[:len(deviceMagic)]) != deviceMagic {
		return nil, ErrNoMagic
	}
	if n < deviceHeader {
		return nil, fmt.Errorf("read initdata header: %w", ErrFormat)
	}
	size := binary.LittleEndian.Uint64(head[len(deviceMagic):])
	if size > MaxCompressed {
		return nil, fmt.Errorf("initdata of %d bytes: %w", size, bounded.ErrTooLarge)
	}
	gz := make([]byte, size)
	if _, err := io.ReadFull(r, gz); err != nil {
		return nil, fmt.Errorf("read initdata of %d bytes: %w", size, malformed(err))
	}
	return ParseGzip(gz, opt)
}

// Digest returns the digest of d over its raw bytes: 32, 48 or 64 bytes.
func (d *Document) Digest() []byte { return digest(d.Algorithm, d.Raw) }

// digest returns nil for an algorithm that it does not know.
func digest(algorithm string, b []byte) []byte {
	switch algorithm {
	case "sha256":
		h := sha256.Sum256(b)
		return h[:]
	case "sha384":
		h := sha512.Sum384(b)
		return h[:]
	case "sha512":
		h := sha512.Sum512(b)
		return h[:]
	}
	return nil
}

// Fit returns digest as a register of n bytes holds it: cut, or padded with
// zeros at the end.
func Fit(digest []byte, n int) []byte {
	b := make([]byte, n)
	copy(b, digest)
	return b
}

// Matches is CheckRegister for the digest of d.
func (d *Document) Matches(register []byte) error { return CheckRegister(d.Digest(), register) }

// CheckRegister compares a digest with the register that the hardware reports
// (32 bytes of HOST_DATA on SNP, 48 of MRCONFIGID on TDX). A digest that does
// not fit, or an empty digest or register, is ErrMismatch.
func CheckRegister(digest, register []byte) error {
	if len(digest) == 0 || len(register) == 0 || !bytes.Equal(Fit(digest, len(register)), register) {
		return fmt.Errorf("digest %x, register %x: %w", digest, register, ErrMismatch)
	}
	return nil
}

// CheckAbsent is for a guest that was given no document: a register that holds
// anything but zeros, or no register, is ErrWithheld.
func CheckAbsent(register []byte) error {
	if len(register) == 0 || !bytes.Equal(register, make([]byte, len(register))) {
		return fmt.Errorf("register %x: %w", register, ErrWithheld)
	}
	return nil
}

// malformed marks err as ErrFormat, on one line.
func malformed(err error) error { return fmt.Errorf("%w: %w", ErrFormat, err) }
