// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package profile holds the kinds of image that can be built, as data.
//
// What an image may do follows from its profile, and the profile's name and
// command line are part of what is measured: debugging is another profile and
// never a switch of a release image.
package profile

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"cocoon/rootfs/recipe"
)

// ErrUnknown is returned for a name that no profile has.
var ErrUnknown = errors.New("unknown profile")

// Profile is everything that tells one kind of image from another.
type Profile struct {
	// Name is what the user asks for and what the guest reads.
	Name string `json:"name"`
	// Purpose is one line for the user.
	Purpose string `json:"purpose"`
	// Cmdline is the kernel command line.
	Cmdline []string `json:"cmdline"`
	// Modules are the kernel modules, without what they depend on.
	Modules []recipe.Module `json:"modules"`
	// MemoryMiB is what the guest needs at least.
	MemoryMiB int `json:"memory_mib"`
}

// All returns every profile, sorted by name.
func All() []Profile { return []Profile{dev(), devKata()} }

// Named returns the profile called name, or an error that wraps ErrUnknown and
// lists the known names.
func Named(name string) (Profile, error) {
	var names []string
	for _, p := range All() {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return Profile{}, fmt.Errorf("%w %q: there is %s", ErrUnknown, name, strings.Join(names, ", "))
}

// dev boots in any QEMU without a TEE. Its console shows the guest's whole log,
// and its address is the one of QEMU's user network.
func dev() Profile {
	return Profile{
		Name:    "dev",
		Purpose: "QEMU without a TEE; log on the console; sample attestation",
		Cmdline: []string{
			"console=ttyS0", "quiet", "panic=-1", "oops=panic", "net.ifnames=0", "cocoon.console=7",
			"ip=10.0.2.15::10.0.2.2:255.255.255.0:::off:10.0.2.3",
		},
		Modules:   slices.Concat(recipe.VirtualMachine(), recipe.CDROM()),
		MemoryMiB: 512,
	}
}

// devKata boots under a kata shim, which configures the network and hands over
// initdata, in QEMU without a TEE.
func devKata() Profile {
	return Profile{
		Name:    "dev-kata",
		Purpose: "QEMU under a kata shim without a TEE; log on the console; sample attestation",
		Cmdline: []string{
			"console=ttyS0", "quiet", "panic=-1", "oops=panic", "net.ifnames=0", "cocoon.console=7",
		},
		Modules:   slices.Concat(recipe.VirtualMachine(), recipe.SCSI()),
		MemoryMiB: 512,
	}
}
