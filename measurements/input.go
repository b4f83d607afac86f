// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"cocoon/internal/bounded"
	"cocoon/measurements/ovmf"
	"cocoon/measurements/shim"
	"cocoon/mkimage/image"
	"cocoon/mkimage/manifest"
)

const maxFirmware = 64 << 20

// errFlags is wrapped by errors about options that do not fit.
var errFlags = errors.New("wrong options")

// input is what every prediction takes.
type input struct {
	firmware, cmdline, format string
	shims, agent              []string
	params                    string
	explain                   bool
}

func (in *input) flags(f *pflag.FlagSet) {
	f.StringVar(&in.firmware, "firmware", "", "firmware image that the guest is launched with (required)")
	f.StringSliceVar(&in.shims, "shim", []string{"go", "rs"}, "kata shims that may launch it: go, rs")
	f.StringVar(&in.cmdline, "cmdline", "", "the whole kernel command line, instead of what a shim would compose")
	f.StringVar(&in.params, "kernel-params", "", "further kernel_params of the shim, behind the image's own")
	f.StringArrayVar(&in.agent, "agent", []string{"launch_process_timeout=6"}, "NAME=VALUE of a setting that the shim writes as agent.NAME; may be repeated")
	in.outputFlags(f)
}

func (in *input) outputFlags(f *pflag.FlagSet) {
	f.StringVar(&in.format, "format", "table", "table, json, or reference: an object of reference values for trustee reference set")
	f.BoolVar(&in.explain, "explain", false, "show how the value came about, step by step")
}

// guest is an image, and the command lines that it may be launched with.
type guest struct {
	dir      string
	man      *manifest.Manifest
	firmware *ovmf.Image
	lines    []line
}

// line is a command line and who composes it.
type line struct {
	Shim    string `json:"shim"`
	Cmdline string `json:"cmdline"`
}

// load reads and checks everything that was named.
func (in *input) load(dir, tee string) (*guest, error) {
	if in.firmware == "" {
		return nil, fmt.Errorf("%w: --firmware is required", errFlags)
	}
	g, err := in.open(dir, tee)
	if err != nil {
		return nil, err
	}
	raw, err := readFile(in.firmware, maxFirmware)
	if err != nil {
		return nil, err
	}
	if g.firmware, err = ovmf.Parse(raw); err != nil {
		return nil, fmt.Errorf("firmware %q: %w", in.firmware, err)
	}
	g.lines, err = in.commandLines(g.man)
	return g, err
}

// open reads and checks the image.
func (in *input) open(dir, tee string) (*guest, error) {
	if !slices.Contains([]string{formatTable, formatJSON, formatReference}, in.format) {
		return nil, fmt.Errorf("%w: --format %q", errFlags, in.format)
	}
	m, err := image.Open(dir)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(m.TEEs, tee) {
		return nil, fmt.Errorf("%w: the image of profile %q is for %q, not for %q", errFlags, m.Profile, strings.Join(m.TEEs, ", "), tee)
	}
	return &guest{dir: dir, man: m}, nil
}

// commandLines are those of the shims, or the one that was given.
func (in *input) commandLines(m *manifest.Manifest) ([]line, error) {
	if in.cmdline != "" {
		return []line{{Shim: "given", Cmdline: in.cmdline}}, nil
	}
	c := shim.Config{KernelParams: m.Cmdline + " " + in.params, Agent: map[string]string{}}
	for _, a := range in.agent {
		name, value, ok := strings.Cut(a, "=")
		if !ok {
			return nil, fmt.Errorf("%w: --agent %q is not NAME=VALUE", errFlags, a)
		}
		c.Agent[name] = value
	}
	if m.Verity != nil {
		c.Extensions = [][2]string{{"cocoon", m.Verity.Text}}
	}
	var lines []line
	for _, name := range in.shims {
		compose, ok := map[string]func(shim.Config) (string, error){"go": shim.Go, "rs": shim.Rust}[name]
		if !ok {
			return nil, fmt.Errorf("%w: --shim %q, want go or rs", errFlags, name)
		}
		text, err := compose(c)
		if err != nil {
			return nil, err
		}
		lines = append(lines, line{Shim: name, Cmdline: text})
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("%w: neither --shim nor --cmdline", errFlags)
	}
	return lines, nil
}

// output returns the content of an output of the image, whose digest image.Open
// has checked.
func (g *guest) output(name string) ([]byte, error) {
	f, err := g.man.Output(name)
	if err != nil {
		return nil, err
	}
	return readFile(filepath.Join(g.dir, f.File), f.Size)
}

func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	raw, err := bounded.ReadAll(io.Reader(f), limit)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read %q: %w", name, err)
	}
	return raw, nil
}
