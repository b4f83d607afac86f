// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cocoon/internal/bounded"
	"cocoon/internal/initdata"
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
	params, initdata          string
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
	f.StringVar(&in.initdata, "initdata", "", "initdata document of a pod, for the register that confirms it as well")
	f.StringVar(&in.format, "format", "table", strings.Join(slices.Sorted(maps.Keys(formats())), ", ")+"; reference is for trustee reference set")
	f.BoolVar(&in.explain, "explain", false, "show how the value came about, step by step; html always does")
}

// run predicts and writes in the format that was asked for.
func (in *input) run(predict func(dir string) (*report, error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		write, ok := formats()[in.format]
		if !ok {
			return fmt.Errorf("%w: --format %.20q, want %s", errFlags, in.format, strings.Join(slices.Sorted(maps.Keys(formats())), ", "))
		}
		in.explain = in.explain || in.format == formatHTML
		r, err := predict(args[0])
		if err != nil {
			return err
		}
		return write(cmd.OutOrStdout(), r)
	}
}

// guest is an image, and the command lines that it may be launched with.
type guest struct {
	dir      string
	man      *manifest.Manifest
	firmware *ovmf.Image
	// loader is the firmware as a file.
	loader *manifest.File
	lines  []line
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
	loader := manifest.Describe("firmware", filepath.Base(in.firmware), raw)
	g.loader = &loader
	g.lines, err = in.commandLines(g.man)
	return g, err
}

// open reads and checks the image.
func (in *input) open(dir, tee string) (*guest, error) {
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

// report is an empty one of the guest.
func (g *guest) report() *report { return &report{image: g.man, firmware: g.loader} }

// document is the initdata that was named, nil if none was.
func (in *input) document() (*initdata.Document, error) {
	if in.initdata == "" {
		return nil, nil
	}
	raw, err := readFile(in.initdata, initdata.MaxDocument)
	if err != nil {
		return nil, err
	}
	d, err := initdata.Parse(raw, initdata.Options{AnyVersion: true})
	if err != nil {
		return nil, fmt.Errorf("initdata %q: %w", in.initdata, err)
	}
	return d, nil
}

// confirm adds to all results the register of a number of bytes that the host
// has to fill with the digest of the owner's document.
func (in *input) confirm(r *report, register string, size int) error {
	d, err := in.document()
	if d == nil || err != nil {
		return err
	}
	value := hex.EncodeToString(initdata.Fit(d.Digest(), size))
	for i := range r.results {
		res := &r.results[i]
		res.Values = append(res.Values, pair{register, value})
		if in.explain {
			res.Steps = append(res.Steps, step{
				Of: register, Input: "initdata", What: "initdata, by its own algorithm " + d.Algorithm, Digest: hex.EncodeToString(d.Digest()),
			})
		}
	}
	return nil
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
