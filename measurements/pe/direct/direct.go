// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package direct knows what firmware sees, and measures, of a Linux kernel that
// QEMU was given with -kernel: the image, which older releases of QEMU change on
// the way, and the load options, which differ by the firmware's release.
//
// It follows QEMU's hw/i386/x86-common.c and edk2's QemuKernelLoaderFsDxe and
// GenericQemuLoadImageLib. The values are the caller's; a kernel may be
// anybody's, and its header is checked before it is changed.
package direct

import (
	"errors"
	"fmt"

	"cocoon/measurements/pe"
)

// Errors that callers branch on.
var (
	// ErrConfig is wrapped by errors about what to predict for.
	ErrConfig = errors.New("wrong launch configuration")
	// ErrPatched is returned if QEMU writes addresses into the kernel's header
	// that depend on the guest's memory, and nothing is said of that.
	ErrPatched = errors.New("QEMU changes the kernel that this firmware measures; tell the memory, or take QEMU 10.2, or 10.0 with edk2 202502")
)

// Boot is a launch by QEMU with -kernel.
type Boot struct {
	// Kernel is the file's content.
	Kernel []byte
	// Initrd tells that there is one, of InitrdSize bytes.
	Initrd     bool
	InitrdSize uint64
	Cmdline    string
	// Memory is the size of the guest's memory in bytes. It and InitrdSize matter
	// for releases with which QEMU changes the kernel.
	Memory uint64
	// EDK2 is the release of the firmware, such as 202511, and QEMU that of the
	// emulator, such as 1002 for 10.2.
	EDK2, QEMU int
	// Confidential is for guests of SEV and TDX.
	Confidential bool
}

// Releases by which it changes what is measured.
const (
	oldestEDK2 = 202211
	// firstNamedEDK2 takes the file etc/boot/kernel of QEMU, which is the kernel
	// as it was given; firstNamedQEMU has one.
	firstNamedEDK2 = 202502
	firstNamedQEMU = 1000
	// firstWholeQEMU leaves kernels of confidential guests alone.
	firstWholeQEMU = 1002
	// firstFrontEDK2 names the initrd before the command line.
	firstFrontEDK2 = 202508
)

// Check refuses releases that are none, or that nothing is known of.
func (b Boot) Check() error {
	switch {
	case b.EDK2 < oldestEDK2 || b.EDK2 > 999912 || b.EDK2%100 < 1 || b.EDK2%100 > 12:
		return fmt.Errorf("edk2 %d, want a release such as 202511, from %d on: %w", b.EDK2, oldestEDK2, ErrConfig)
	case b.QEMU < 100 || b.QEMU > 99_99:
		return fmt.Errorf("QEMU %d, want one such as 1002 for 10.2: %w", b.QEMU, ErrConfig)
	}
	return nil
}

// Patched tells whether the firmware measures a kernel that QEMU has changed.
func (b Boot) Patched() bool {
	whole := b.Confidential && b.QEMU >= firstWholeQEMU
	named := b.QEMU >= firstNamedQEMU && b.EDK2 >= firstNamedEDK2
	return !whole && !named
}

// Image is the kernel as the firmware loads it.
func (b Boot) Image() ([]byte, error) {
	if err := b.Check(); err != nil {
		return nil, err
	}
	if !b.Patched() {
		return b.Kernel, nil
	}
	if b.Memory == 0 || b.Initrd && b.InitrdSize == 0 {
		return nil, fmt.Errorf("QEMU %d.%d, edk2 %d: %w", b.QEMU/100, b.QEMU%100, b.EDK2, ErrPatched)
	}
	return b.patch()
}

// LoadOptions is the command line as the firmware hands it to the kernel, as
// text and in the bytes that are measured.
func (b Boot) LoadOptions() (string, []byte) {
	text := b.Cmdline
	switch {
	case b.Initrd && b.EDK2 >= firstFrontEDK2:
		text = "initrd=initrd " + text
	case b.Initrd:
		text += " initrd=initrd"
	}
	return text, pe.LoadOptions(text)
}
