// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// nsfsMagic is the file system type of a namespace file, NSFS_MAGIC of
// linux/magic.h.
const nsfsMagic = 0x6e736673

// checkNamespacePaths makes sure that every namespace that is to be joined is
// one. Whoever opens the path later would wait forever if it were a FIFO.
func checkNamespacePaths(list []specs.LinuxNamespace) error {
	for _, ns := range list {
		if ns.Path == "" {
			continue
		}
		var st unix.Statfs_t
		if err := unix.Statfs(ns.Path, &st); err != nil {
			return fmt.Errorf("look at %s namespace %q: %w", ns.Type, ns.Path, err)
		}
		if st.Type != nsfsMagic {
			return refuse("%q is no namespace", ns.Path)
		}
	}
	return nil
}
