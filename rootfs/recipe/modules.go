// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package recipe

// Module names a kernel module that a profile wants.
type Module struct {
	Name string
	// Optional modules drive hardware that may be absent.
	Optional bool
}

// VirtualMachine returns the modules that any guest under QEMU needs: devices,
// the channels to the host, overlay roots, pod networks and the file systems of
// disks that the host plugs in, with what checks and encrypts them.
func VirtualMachine() []Module {
	mods := required(
		"virtio_pci", "virtio_net", "virtio_blk", "virtio_console", "virtio_rng",
		"overlay", "vsock_loopback", "vmw_vsock_virtio_transport",
		"veth", "vxlan", "loop", "isofs", "configfs",
		"ext4", "erofs", "dm_verity", "dm_crypt", "dm_integrity", "gcm", "ctr", "xts", "ghash_generic", "aes_generic",
	)
	// Where the processor can, it encrypts disks several times as fast.
	return append(mods, Module{Name: "aesni_intel", Optional: true}, Module{Name: "ghash_clmulni_intel", Optional: true})
}

// SCSI returns the drivers of the controller behind which a kata shim plugs in
// disks, unless it is told to use virtio block devices.
func SCSI() []Module { return required("virtio_scsi", "sd_mod") }

// CDROM returns the drivers of the drives in which a host may hand over
// user-data.
func CDROM() []Module {
	mods := required("sr_mod")
	return append(mods, Module{Name: "ata_piix", Optional: true}, Module{Name: "virtio_scsi", Optional: true})
}

func required(names ...string) []Module {
	var mods []Module
	for _, n := range names {
		mods = append(mods, Module{Name: n})
	}
	return mods
}
