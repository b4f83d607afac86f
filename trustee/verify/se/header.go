// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package se

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"cocoon/attest/tee/se"
	"cocoon/internal/bounded"
)

const (
	headerMagic   = "IBMSecEx"
	headerVersion = 0x100
	headerMin     = tagsOffset + 3*64 + gcmTag
	headerMax     = 8192
	tagsOffset    = 224

	maxHeaders = 256
)

// ErrHeader is returned for what is no header of an image.
var ErrHeader = errors.New("no header of a Secure Execution image")

// readHeaders returns what the headers in a folder pin: the digests of pages,
// addresses and tweaks, and the tag, of each image that may run.
func readHeaders(folder string) ([][]byte, error) {
	names, err := filepath.Glob(filepath.Join(folder, "*.bin"))
	if err != nil {
		return nil, fmt.Errorf("list the image headers in %q: %w", folder, err)
	}
	if len(names) == 0 || len(names) > maxHeaders {
		return nil, fmt.Errorf("%d image headers (*.bin) in %q, want 1 to %d", len(names), folder, maxHeaders)
	}
	var all [][]byte
	for _, name := range names {
		raw, err := readFile(name, headerMax)
		if err != nil {
			return nil, err
		}
		tags, err := parseHeader(raw)
		if err != nil {
			return nil, fmt.Errorf("read %q: %w", name, err)
		}
		all = append(all, tags)
	}
	return all, nil
}

// parseHeader takes digests and tag out of a header.
func parseHeader(raw []byte) ([]byte, error) {
	if len(raw) < headerMin || string(raw[:8]) != headerMagic {
		return nil, fmt.Errorf("%w: %d bytes, without %q at the start", ErrHeader, len(raw), headerMagic)
	}
	version, size := binary.BigEndian.Uint32(raw[8:]), binary.BigEndian.Uint32(raw[12:])
	if version != headerVersion || int64(size) != int64(len(raw)) {
		return nil, fmt.Errorf("%w: version %#x, of %d bytes, in a file of %d", ErrHeader, version, size, len(raw))
	}
	tags := make([]byte, 0, se.TagsSize)
	tags = append(tags, raw[tagsOffset:tagsOffset+3*64]...)
	return append(tags, raw[len(raw)-gcmTag:]...), nil
}

func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	raw, err := bounded.ReadAll(io.Reader(f), limit)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read %q: %w", name, err)
	}
	return raw, nil
}
