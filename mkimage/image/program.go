// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"debug/elf"
	"fmt"

	"cocoon/mkimage/profile"
)

// machineOf is the machine of programs for an architecture.
func machineOf(arch string) elf.Machine {
	return map[string]elf.Machine{profile.AMD64: elf.EM_X86_64, profile.S390x: elf.EM_S390}[arch]
}

// readProgram reads a program of the guest. One for another processor would be
// found out when the guest does not start.
func (b *builder) readProgram(name, file string) ([]byte, error) {
	data, err := b.readInput(name, file)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%w: %s %q is no program: %w", ErrInput, name, file, err)
	}
	if want := machineOf(b.in.Profile.Arch); f.Machine != want {
		return nil, fmt.Errorf("%w: %s %q is for %s, and profile %q for %s", ErrInput, name, file, f.Machine, b.in.Profile.Name, b.in.Profile.Arch)
	}
	return data, nil
}
