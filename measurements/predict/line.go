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
	c, err := l.Config(m)
	if err != nil {
		return nil, err
	}
	var lines []Line
	for _, name := range l.Shims {
		text, err := Compose(name, c)
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

// Config is what a shim is configured with for an image.
func (l Launch) Config(m *manifest.Manifest) (shim.Config, error) {
	c := shim.Config{KernelParams: m.Cmdline + " " + l.Params, Agent: map[string]string{}}
	for _, a := range l.Agent {
		name, value, ok := strings.Cut(a, "=")
		if !ok {
			return c, fmt.Errorf("%w: --agent %q is not NAME=VALUE", ErrOptions, a)
		}
		c.Agent[name] = value
	}
	if m.Verity != nil {
		c.Extensions = [][2]string{{"cocoon", m.Verity.Text}}
	}
	return c, nil
}

// Compose is the command line that the shim go or rs makes of a configuration.
func Compose(name string, c shim.Config) (string, error) {
	switch name {
	case "go":
		return shim.Go(c)
	case "rs":
		return shim.Rust(c)
	}
	return "", fmt.Errorf("%w: --shim %q, want go or rs", ErrOptions, name)
}
