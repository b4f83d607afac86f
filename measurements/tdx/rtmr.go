// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tdx

import (
	"crypto/sha512"
	"fmt"

	"cocoon/internal/initdata"
	"cocoon/measurements/pe"
	"cocoon/measurements/pe/direct"
)

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
	// InitrdSize is the size of the initrd and Memory that of the guest's memory,
	// in bytes. They are needed for releases with which QEMU changes the kernel.
	InitrdSize, Memory uint64
}

// Step is one event of a register.
type Step struct {
	// Input is what it is of: "firmware", "kernel", "cmdline" or "initrd". It is ""
	// for events that are the same for all guests, and for those of a log.
	Input  string
	What   string
	Digest Register // of the event
	Value  Register // of the register after it
}

// register is a value that grows.
type register struct {
	value Register
	steps []Step
}

func (r *register) extend(input, what string, digest Register) {
	r.value = sha512.Sum384(append(r.value[:], digest[:]...))
	r.steps = append(r.steps, Step{Input: input, What: what, Digest: digest, Value: r.value})
}

func (r *register) action(text string) {
	r.extend("", fmt.Sprintf("action %q", text), sha512.Sum384([]byte(text)))
}

// Releases of edk2 by which it changed what is measured.
const (
	oldestEDK2    = 202402
	separatorEDK2 = 202411
)

// direct is the launch as the package of that name has it.
func (b Boot) direct() direct.Boot {
	return direct.Boot{
		Kernel: b.Kernel, Initrd: b.Initrd != nil, InitrdSize: b.InitrdSize, Cmdline: b.Cmdline, Memory: b.Memory, EDK2: b.EDK2, QEMU: b.QEMU,
		Confidential: true,
	}
}

func (b Boot) check() error {
	if b.EDK2 < oldestEDK2 {
		return fmt.Errorf("edk2 %d, want a release such as 202511, from %d on: %w", b.EDK2, oldestEDK2, direct.ErrConfig)
	}
	return b.direct().Check()
}

// RTMR1 is of the kernel.
func (b Boot) RTMR1() (Register, []Step, error) {
	if err := b.check(); err != nil {
		return Register{}, nil, err
	}
	kernel, err := b.direct().Image()
	if err != nil {
		return Register{}, nil, fmt.Errorf("kernel: %w", err)
	}
	digest, err := pe.Authenticode(sha512.New384(), kernel)
	if err != nil {
		return Register{}, nil, fmt.Errorf("kernel: %w", err)
	}
	var r register
	what := "kernel, by Authenticode"
	if b.direct().Patched() {
		what = "kernel as QEMU changes it, by Authenticode"
	}
	r.kernel(what, Register(digest), b.EDK2)
	return r.value, r.steps, nil
}

// kernel adds the events of a start by -kernel: the firmware loads it before it
// says that it calls it.
func (r *register) kernel(what string, digest Register, edk2 int) {
	r.extend("kernel", what, digest)
	r.action("Calling EFI Application from Boot Option")
	if edk2 >= separatorEDK2 {
		r.extend("", "separator", sha512.Sum384(make([]byte, 4)))
	}
	r.action("Exit Boot Services Invocation")
	r.action("Exit Boot Services Returned with Success")
}

// RTMR2 is of command line and initrd.
func (b Boot) RTMR2() (Register, []Step, error) {
	if err := b.check(); err != nil {
		return Register{}, nil, err
	}
	line, raw := b.direct().LoadOptions()
	var r register
	r.extend("cmdline", fmt.Sprintf("load options %q", line), sha512.Sum384(raw))
	if b.Initrd != nil {
		r.extend("initrd", "initrd", *b.Initrd)
	}
	return r.value, r.steps, nil
}

// ConfigID is the digest of an owner's document as a shim hands it over in
// MRCONFIGID: padded with zeros, or cut.
func ConfigID(digest []byte) Register { return Register(initdata.Fit(digest, len(Register{}))) }
