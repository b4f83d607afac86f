// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package predict

import (
	"fmt"
	"strings"

	"cocoon/measurements/shim"
	"cocoon/mkimage/manifest"
)

// Line is a command line and who composes it.
type Line struct {
	Shim    string `json:"shim"`
	Cmdline string `json:"cmdline"`
}

// Launch says by whom a guest is launched, which decides its command line.
type Launch struct {
	// Cmdline is the whole line; the other fields count if it is "".
	Cmdline string
	// Shims are go and rs, kata's two.
	Shims []string
	// Params are kernel_params of the shim behind the image's own, and Agent are
	// settings NAME=VALUE that it writes as agent.NAME.
	Params string
	Agent  []string
}

// DefaultLaunch is by either shim with the configuration that kata ships.
func DefaultLaunch() Launch {
	return Launch{Shims: []string{"go", "rs"}, Agent: []string{"launch_process_timeout=6"}}
}

// Lines are the command lines that an image may be launched with.
func (l Launch) Lines(m *manifest.Manifest) ([]Line, error) {
	if l.Cmdline != "" {
		return []Line{{Shim: "given", Cmdline: l.Cmdline}}, nil
	}
	c := shim.Config{KernelParams: m.Cmdline + " " + l.Params, Agent: map[string]string{}}
	for _, a := range l.Agent {
		name, value, ok := strings.Cut(a, "=")
		if !ok {
			return nil, fmt.Errorf("%w: --agent %q is not NAME=VALUE", ErrOptions, a)
		}
		c.Agent[name] = value
	}
	if m.Verity != nil {
		c.Extensions = [][2]string{{"cocoon", m.Verity.Text}}
	}
	var lines []Line
	for _, name := range l.Shims {
		compose, ok := map[string]func(shim.Config) (string, error){"go": shim.Go, "rs": shim.Rust}[name]
		if !ok {
			return nil, fmt.Errorf("%w: --shim %q, want go or rs", ErrOptions, name)
		}
		text, err := compose(c)
		if err != nil {
			return nil, err
		}
		lines = append(lines, Line{Shim: name, Cmdline: text})
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("%w: neither --shim nor --cmdline", ErrOptions)
	}
	return lines, nil
}
