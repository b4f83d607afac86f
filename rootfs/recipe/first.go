// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package recipe

import (
	"errors"
	"fmt"

	"cocoon/rootfs/boot"
)

// First returns every entry of an initramfs that only leads to a root on a
// disk: program, which is rootfs/first, and the modules that it loads, in their
// order. It accepts no command line but the given one, unless that is empty. The
// order of entries has no meaning.
func First(program []byte, modules []ModuleFile, cmdline string) ([]Entry, error) {
	if len(program) == 0 {
		return nil, errors.New("an initramfs for a root on a disk needs a program")
	}
	list := moduleList(modules)
	if _, err := boot.ParseModules(list); err != nil {
		return nil, fmt.Errorf("module list that PID 1 would refuse: %w", err)
	}
	var entries []Entry
	for _, d := range []string{"dev", "etc", "etc/cocoon", "proc", "sys"} {
		entries = append(entries, Entry{Path: d, Mode: TypeDir | 0o755})
	}
	entries = append(append(entries, nodes()...),
		Entry{Path: "init", Mode: TypeFile | 0o755, Data: program},
		file(boot.ModulesPath, list))
	if cmdline != "" {
		entries = append(entries, file(boot.CmdlinePath, cmdline))
	}
	for _, m := range modules {
		entries = append(entries, file(m.Path, string(m.Data)))
	}
	return entries, nil
}
