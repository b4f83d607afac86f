// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tdx

import (
	"crypto/sha512"
	"errors"
	"fmt"

	"cocoon/measurements/pe"
)

// ErrPatched is returned for releases of QEMU and edk2 with which the firmware
// sees another kernel than the file: QEMU writes addresses into its header that
// depend on the guest's memory.
var ErrPatched = errors.New("QEMU changes the kernel that this firmware measures; take QEMU 10.2, or 10.0 with edk2 202502")

// Boot is a launch by QEMU with -kernel.
type Boot struct {
	// Kernel is the file's content, and Initrd the digest of that file by
	// SHA-384; nil if there is none.
	Kernel  []byte
	Initrd  *Register
	Cmdline string
	// EDK2 is the release of the firmware, such as 202511, and QEMU that of the
	// emulator, such as 1002 for 10.2.
	EDK2, QEMU int
}

// Step is one event of a register.
type Step struct {
	What   string
	Digest Register // of the event
	Value  Register // of the register after it
}

// register is a value that grows.
type register struct {
	value Register
	steps []Step
}

func (r *register) extend(what string, digest Register) {
	r.value = sha512.Sum384(append(r.value[:], digest[:]...))
	r.steps = append(r.steps, Step{What: what, Digest: digest, Value: r.value})
}

func (r *register) action(text string) {
	r.extend(fmt.Sprintf("action %q", text), sha512.Sum384([]byte(text)))
}

// Releases of edk2 by which it changed what is measured.
const (
	oldestEDK2      = 202402
	separatorEDK2   = 202411
	namedBlobsEDK2  = 202502
	initrdFirstEDK2 = 202508

	namedBlobsQEMU = 1000
	unchangedQEMU  = 1002
)

func (b Boot) check() error {
	switch {
	case b.EDK2 < oldestEDK2 || b.EDK2 > 999912 || b.EDK2%100 < 1 || b.EDK2%100 > 12:
		return fmt.Errorf("edk2 %d, want a release such as 202511, from %d on: %w", b.EDK2, oldestEDK2, ErrConfig)
	case b.QEMU < 100 || b.QEMU > 99_99:
		return fmt.Errorf("QEMU %d, want one such as 1002 for 10.2: %w", b.QEMU, ErrConfig)
	case b.QEMU < namedBlobsQEMU || b.QEMU < unchangedQEMU && b.EDK2 < namedBlobsEDK2:
		return fmt.Errorf("QEMU %d.%d, edk2 %d: %w", b.QEMU/100, b.QEMU%100, b.EDK2, ErrPatched)
	}
	return nil
}

// RTMR1 is of the kernel.
func (b Boot) RTMR1() (Register, []Step, error) {
	if err := b.check(); err != nil {
		return Register{}, nil, err
	}
	kernel, err := pe.Authenticode(sha512.New384(), b.Kernel)
	if err != nil {
		return Register{}, nil, fmt.Errorf("kernel: %w", err)
	}
	var r register
	r.kernel(Register(kernel), b.EDK2)
	return r.value, r.steps, nil
}

// kernel adds the events of a start by -kernel: the firmware loads it before it
// says that it calls it.
func (r *register) kernel(digest Register, edk2 int) {
	r.extend("kernel, by Authenticode", digest)
	r.action("Calling EFI Application from Boot Option")
	if edk2 >= separatorEDK2 {
		r.extend("separator", sha512.Sum384(make([]byte, 4)))
	}
	r.action("Exit Boot Services Invocation")
	r.action("Exit Boot Services Returned with Success")
}

// RTMR2 is of command line and initrd.
func (b Boot) RTMR2() (Register, []Step, error) {
	if err := b.check(); err != nil {
		return Register{}, nil, err
	}
	line := b.loadOptions()
	var r register
	r.extend(fmt.Sprintf("load options %q", line), sha512.Sum384(pe.LoadOptions(line)))
	if b.Initrd != nil {
		r.extend("initrd", *b.Initrd)
	}
	return r.value, r.steps, nil
}

// loadOptions is the command line as the firmware hands it to the kernel.
func (b Boot) loadOptions() string {
	switch {
	case b.Initrd == nil:
		return b.Cmdline
	case b.EDK2 >= initrdFirstEDK2:
		return "initrd=initrd " + b.Cmdline
	}
	return b.Cmdline + " initrd=initrd"
}

// ConfigID is the digest of an owner's document as a shim hands it over in
// MRCONFIGID: padded with zeros, or cut.
func ConfigID(digest []byte) (id Register) {
	copy(id[:], digest)
	return id
}
