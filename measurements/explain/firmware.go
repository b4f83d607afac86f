// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"

	"cocoon/measurements/ovmf"
	"cocoon/measurements/snp"
	"cocoon/measurements/tdx"
)

// ErrFirmware is returned for a file that a guest cannot be launched with.
var ErrFirmware = errors.New("no firmware that a guest of this kind can be launched with")

// Firmware is a file and what is in it.
type Firmware struct {
	Name  string
	Image *ovmf.Image
}

// NewFirmware reads what a guest of a TEE can be launched with. Errors are
// ErrFirmware.
func NewFirmware(tee, name string, raw []byte) (Firmware, error) {
	i, err := ovmf.Parse(raw)
	switch {
	case err != nil:
	case tee == "snp":
		var list []ovmf.Section
		if list, err = i.Sections(); err == nil && len(list) == 0 {
			err = errors.New("it has no metadata for SEV")
		}
		if err == nil {
			_, err = snp.FirmwareDigest(i)
		}
	case tee == "tdx":
		_, err = tdx.MRTD(i)
	}
	if err != nil {
		return Firmware{}, fmt.Errorf("firmware %q: %w: %w", name, ErrFirmware, err)
	}
	return Firmware{Name: name, Image: i}, nil
}

// checks tells whether a firmware checks the kernel that QEMU loads: another one
// boots any kernel under the same digest.
func checks(i *ovmf.Image) bool {
	list, err := i.Sections()
	if err != nil {
		return false
	}
	for _, s := range list {
		if s.Type == ovmf.KernelHashes {
			return true
		}
	}
	return false
}
