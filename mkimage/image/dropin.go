// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"cmp"
	"fmt"
	"path"
	"strings"

	"cocoon/mkimage/profile"
)

// extension is the name of the root's disk among a shim's guest extension
// images. PID 1 looks for its parameters under this name.
const extension = "cocoon"

// dropIn returns what a kata shim has to be told: a file for the folder
// config.d beside its configuration. Sharing of files is off, since the host
// would see and forge them.
func (b *builder) dropIn() []byte {
	dir := cmp.Or(b.in.InstallDir, "/opt/cocoon/"+b.in.Profile.Name)
	var t strings.Builder
	fmt.Fprintf(&t, "# Profile %s. What is measured has to be set exactly as here.\n[hypervisor.qemu]\n", b.in.Profile.Name)
	kernel, initrd, params := path.Join(dir, KernelFile), path.Join(dir, InitrdFile), b.man.Cmdline
	if b.in.Profile.Layout == profile.SecureExecution {
		kernel, initrd, params = path.Join(dir, SEFile), "", "" // all three are in the image
	}
	fmt.Fprintf(&t, "kernel = %q\ninitrd = %q\nimage = \"\"\n", kernel, initrd)
	fmt.Fprintf(&t, "kernel_params = %q\nkernel_verity_params = \"\"\n", params)
	fmt.Fprintf(&t, "default_memory = %d\nshared_fs = \"none\"\ndisable_guest_selinux = true\n", b.in.Profile.MemoryMiB)
	// Annotations of these would let a pod's author change what is measured.
	t.WriteString("enable_annotations = [\"cc_init_data\"]\n")
	if v := b.man.Verity; v != nil {
		fmt.Fprintf(&t, "\n[[hypervisor.qemu.guest_extension_images]]\nname = %q\npath = %q\nverity_params = %q\n", extension, path.Join(dir, RootFile), v.Text)
	}
	return []byte(t.String())
}
