// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"time"

	"cocoon/internal/wire/agentpb"
)

const (
	// maxModules bounds one request's list.
	maxModules = 64
	// moduleLimit bounds loading one module.
	moduleLimit = 30 * time.Second
)

var (
	moduleName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}$`)
	// A parameter is name=value; it cannot begin with a dash, which modprobe
	// would take for an option.
	moduleParameter = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}(=[[:print:]]{0,256})?$`)
)

// checkModules refuses names and parameters that modprobe could take for
// something else.
func checkModules(list []*agentpb.KernelModule) error {
	if len(list) > maxModules {
		return fmt.Errorf("%d kernel modules: %w", len(list), ErrInvalid)
	}
	for _, m := range list {
		if !moduleName.MatchString(m.GetName()) {
			return fmt.Errorf("kernel module name %q: %w", m.GetName(), ErrInvalid)
		}
		for _, p := range m.GetParameters() {
			if !moduleParameter.MatchString(p) {
				return fmt.Errorf("parameter %q of kernel module %q: %w", p, m.GetName(), ErrInvalid)
			}
		}
	}
	return nil
}

// loadModules runs modprobe for each module of a list that was checked.
func (s *sandbox) loadModules(ctx context.Context, list []*agentpb.KernelModule) error {
	for _, m := range list {
		if err := s.loadModule(ctx, m); err != nil {
			return fmt.Errorf("load kernel module %q: %w", m.GetName(), err)
		}
	}
	return nil
}

func (s *sandbox) loadModule(ctx context.Context, m *agentpb.KernelModule) error {
	ctx, cancel := context.WithTimeout(ctx, moduleLimit)
	defer cancel()
	args := append([]string{"-v", m.GetName()}, m.GetParameters()...)
	cmd := exec.CommandContext(ctx, s.paths.Modprobe, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out[:min(len(out), 1024)]))
	}
	return nil
}
