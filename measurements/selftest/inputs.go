// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package selftest

import (
	"errors"

	"cocoon/measurements/ovmf"
)

// initrd is that of all vectors; nothing looks into it.
const initrd = "an initramfs"

// inputs are the files that predictions are of.
type inputs struct {
	firmware    *ovmf.Image
	kernel, uki []byte
}

func load() (*inputs, error) {
	var in inputs
	firmware, err := files.ReadFile("vectors/firmware.fd")
	if err == nil {
		in.firmware, err = ovmf.Parse(firmware)
	}
	kernel, err1 := files.ReadFile("vectors/kernel.efi")
	uki, err2 := files.ReadFile("vectors/uki.efi")
	in.kernel, in.uki = kernel, uki
	return &in, errors.Join(err, err1, err2)
}
