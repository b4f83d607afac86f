// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package vtpm predicts the PCRs of a TPM after a machine booted: PCR 4 (programs
// that the firmware started), PCR 9 (command line and initrd as the kernel got
// them) and PCR 11 (sections of a unified kernel image, by systemd's stub), and
// PCR 8, which a guest extends with the digest of its initdata. A machine boots a
// unified kernel image from its disk, or a kernel that QEMU was given. Releases
// of the stub measure differently; those that are known here were booted under
// OVMF.
//
// It follows edk2, Linux's EFI stub and systemd's src/boot. Every value comes
// with the steps that lead there, so that a report can go from it to a file.
//
// Trust: images are the caller's but may come from a stranger; what they say of
// themselves is checked.
package vtpm

import (
	"fmt"
	"hash"
)

// Step is one event of a register.
type Step struct {
	PCR int
	// Input is what it is of: "image", "kernel", "cmdline", "initrd", "initdata", or
	// the name of a section. It is "" for events that are the same everywhere.
	Input         string
	What          string
	Digest, Value []byte
}

// registers are those of one bank.
type registers struct {
	hash  func() hash.Hash
	value map[int][]byte
	steps []Step
}

func (r *registers) sum(parts ...[]byte) []byte {
	h := r.hash()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func (r *registers) extend(pcr int, input, what string, digest []byte) {
	old := r.value[pcr]
	if old == nil {
		old = make([]byte, r.hash().Size())
	}
	r.value[pcr] = r.sum(old, digest)
	r.steps = append(r.steps, Step{PCR: pcr, Input: input, What: what, Digest: digest, Value: r.value[pcr]})
}

// action is an event whose digest is that of its text.
func (r *registers) action(pcr int, text string) { r.extend(pcr, "", text, r.sum([]byte(text))) }

// calling is what firmware says before it starts a boot option.
const calling = "Calling EFI Application from Boot Option"

// loaded is PCR 9.
func (r *registers) loaded(cmdline string, options, initrd []byte) {
	r.extend(9, "cmdline", fmt.Sprintf("load options %q", cmdline), r.sum(options))
	if initrd != nil {
		r.extend(9, "initrd", "initrd", initrd)
	}
}
