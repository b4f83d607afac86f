// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package vtpm

import (
	"fmt"
	"hash"

	"cocoon/measurements/pe"
	"cocoon/measurements/pe/direct"
)

// Direct returns the PCRs 4 and 9 of the bank of h for a kernel that QEMU was
// given with -kernel. initrd is the content of the file, if the launch has one.
func Direct(h func() hash.Hash, b direct.Boot, initrd []byte) (map[int][]byte, []Step, error) {
	if b.Initrd != (initrd != nil) || b.Initrd && b.InitrdSize != uint64(len(initrd)) {
		return nil, nil, fmt.Errorf("an initrd of %d bytes for a launch with one of %d: %w", len(initrd), b.InitrdSize, direct.ErrConfig)
	}
	image, err := b.Image()
	if err != nil {
		return nil, nil, fmt.Errorf("kernel: %w", err)
	}
	kernel, err := pe.Authenticode(h(), image)
	if err != nil {
		return nil, nil, fmt.Errorf("kernel: %w", err)
	}
	r := &registers{hash: h, value: map[int][]byte{}}
	var digest []byte
	if b.Initrd {
		digest = r.sum(initrd)
	}
	r.direct(kernel, b, digest)
	return r.value, r.steps, nil
}

// direct adds the events: the firmware loads the kernel before it says that it
// calls it.
func (r *registers) direct(kernel []byte, b direct.Boot, initrd []byte) {
	what := "kernel, by Authenticode"
	if b.Patched() {
		what = "kernel as QEMU changes it, by Authenticode"
	}
	r.extend(4, "kernel", what, kernel)
	r.action(4, calling)
	r.extend(4, "", "separator", r.sum(make([]byte, 4)))
	text, raw := b.LoadOptions()
	r.loaded(text, raw, initrd)
}
