// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package predict says what the hardware will report about a guest that runs an
// image of mkimage, under the names that reference values have in Trustee and in
// Cocoon's broker.
//
// Trust: the image is read from a folder and checked against its manifest first;
// the manifest itself may be anybody's, and the prediction is of that image. The
// firmware is of a stranger. Launch options are the caller's.
package predict

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"cocoon/internal/bounded"
	"cocoon/measurements/ovmf"
	"cocoon/mkimage/image"
	"cocoon/mkimage/manifest"
)

// maxFirmware bounds a firmware, in bytes.
const maxFirmware = 64 << 20

// ErrOptions is wrapped by errors about options that do not fit the image or each
// other.
var ErrOptions = errors.New("wrong options")

// Guest is an image, and the firmware that it is launched with, if that counts.
type Guest struct {
	Image *manifest.Manifest
	// Firmware is the file of LoadFirmware, nil before.
	Firmware *manifest.File

	dir  string
	ovmf *ovmf.Image
}

// Open reads and checks the image in dir, which has to be for a TEE by one of
// the names in its manifest.
func Open(dir, tee string) (*Guest, error) {
	m, err := image.Open(dir)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(m.TEEs, tee) {
		return nil, fmt.Errorf("%w: the image of profile %q is for %q, not for %q", ErrOptions, m.Profile, strings.Join(m.TEEs, ", "), tee)
	}
	return &Guest{Image: m, dir: dir}, nil
}

// LoadFirmware reads the firmware that the guest is launched with.
func (g *Guest) LoadFirmware(file string) error {
	raw, err := bounded.ReadFile(file, maxFirmware)
	if err != nil {
		return err
	}
	if g.ovmf, err = ovmf.Parse(raw); err != nil {
		return fmt.Errorf("firmware %q: %w", file, err)
	}
	f := manifest.Describe("firmware", filepath.Base(file), raw)
	g.Firmware = &f
	return nil
}

// Output returns the content of an output of the image by its name, whose digest
// image.Open has checked.
func (g *Guest) Output(name string) ([]byte, error) {
	f, err := g.Image.Output(name)
	if err != nil {
		return nil, err
	}
	return bounded.ReadFile(filepath.Join(g.dir, f.File), f.Size)
}
