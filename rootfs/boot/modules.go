// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// ModulesPath is the image's list of kernel modules.
const ModulesPath = "/etc/cocoon/modules"

// ErrModuleList is wrapped by every error about the list at ModulesPath.
var ErrModuleList = errors.New("malformed module list")

// maxModules bounds the list; profiles have about fifty entries.
const maxModules = 512

// Module is one kernel module to load.
type Module struct {
	// Path is where the module file is.
	Path string
	// Optional modules may fail to load: drivers of hardware that is not there
	// answer ENODEV.
	Optional bool
}

// ParseModules reads a module list: one absolute path below /lib/modules/ a
// line, each module after those that it needs, a leading '?' for an optional
// one. The image builder resolves names and dependencies, so that PID 1 needs
// no map of them.
func ParseModules(text string) ([]Module, error) {
	var mods []Module
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			continue
		}
		p, optional := strings.CutPrefix(line, "?")
		if !strings.HasPrefix(p, "/lib/modules/") || path.Clean(p) != p || !strings.HasSuffix(p, ".ko") {
			return nil, fmt.Errorf("line %q: %w", line, ErrModuleList)
		}
		if len(mods) == maxModules {
			return nil, fmt.Errorf("more than %d modules: %w", maxModules, ErrModuleList)
		}
		mods = append(mods, Module{Path: p, Optional: optional})
	}
	return mods, nil
}
