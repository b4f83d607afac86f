// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"path/filepath"

	"cocoon/mkimage/manifest"
	"cocoon/mkimage/profile"
	"cocoon/mkimage/qemu"
	"cocoon/rootfs/boot"
)

// Machine returns a machine that boots the image in dir. A root on a disk is
// attached and announced as a kata shim does it.
func Machine(dir string, m *manifest.Manifest) qemu.Config {
	c := qemu.Config{
		Kernel: filepath.Join(dir, KernelFile), Initrd: filepath.Join(dir, InitrdFile), Cmdline: m.Cmdline, MemoryMiB: m.MemoryMiB,
	}
	if m.Layout == string(profile.Extension) && m.Verity != nil {
		c.Cmdline += " " + boot.ParamExtension + "=" + m.Verity.Text
		c.Disks = []qemu.Disk{{File: filepath.Join(dir, RootFile), ReadOnly: true}}
	}
	return c
}
