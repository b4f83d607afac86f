// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Command first is PID 1 of an initramfs that only leads to the guest's root on
// a disk: it loads the disk's drivers, has the kernel check the disk against
// the root hash of the command line, and becomes the root's /init.
//
// It exists so that such an initramfs need not hold the guest binary too, which
// would then be loaded, measured and kept in memory twice.
//
// Trust: as for package boot, whose first steps it runs.
package main

import (
	"context"
	"os"

	"cocoon/rootfs/boot"
)

func main() { os.Exit(boot.FirstMain(context.Background())) }
