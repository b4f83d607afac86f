// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"cocoon/internal/bounded"
	"cocoon/measurements/explain"
	"cocoon/measurements/predict"
	"cocoon/measurements/report"
	"cocoon/mkimage/manifest"
)

// Limits on files: a firmware, and an event log.
const (
	maxFirmware = 64 << 20
	maxLog      = 4 << 20
)

// errDiffers is returned where evidence is not of the image as it should run.
var errDiffers = errors.New("the evidence is not of this image as it should be launched")

type explainFlags struct {
	firmware, others []string
	log, initdata    string
	format           string
	launch           predict.Launch
	vcpus            int
	memory           []uint
}

func explainCommand() *cobra.Command {
	var f explainFlags
	def := predict.DefaultLaunch()
	c := &cobra.Command{
		Use:   "explain EVIDENCE IMAGE",
		Short: "say which launch of an image evidence is of, or what is most likely another one",
		Long: "EVIDENCE is a report of SEV-SNP, a quote of TDX, or evidence in JSON of snp, tdx, az-snp-vtpm, az-tdx-vtpm or tpm.\n" +
			"IMAGE is a folder that mkimage made, or its manifest. Signatures are not verified: see trustee verify.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return f.explain(cmd.OutOrStdout(), args[0], args[1]) },
	}
	fl := c.Flags()
	fl.StringArrayVar(&f.firmware, "firmware", nil, "firmware that the guest should run, and others that it may run; or a folder of them; may be repeated")
	fl.StringArrayVar(&f.others, "other", nil, "another image that may run instead; may be repeated")
	fl.StringVar(&f.log, "eventlog", "", "event log of the firmware (CCEL), if the evidence has none")
	fl.StringVar(&f.initdata, "initdata", "", "initdata document of the pod")
	fl.StringSliceVar(&f.launch.Shims, "shim", def.Shims, "kata shims that may launch it: go, rs")
	fl.StringVar(&f.launch.Cmdline, "cmdline", "", "the whole kernel command line, instead of what a shim would compose")
	fl.StringVar(&f.launch.Params, "kernel-params", "", "further kernel_params of the shim, behind the image's own")
	fl.StringArrayVar(&f.launch.Agent, "agent", def.Agent, "NAME=VALUE of a setting that the shim writes as agent.NAME; may be repeated")
	fl.IntVar(&f.vcpus, "vcpus", 4*predict.DefaultVCPUs, "the largest number of processors that is tried")
	fl.UintSliceVar(&f.memory, "memory", []uint{1024, 2048, 4096, 8192}, "sizes of the guest's memory in MiB that are tried, for releases of QEMU that change the kernel by it")
	fl.StringVar(&f.format, "format", "table", "table or json")
	return c
}

func (f *explainFlags) explain(w io.Writer, evidence, dir string) error {
	write, ok := map[string]func(io.Writer, *explain.Answer) error{
		"table": writeAnswer, "json": func(w io.Writer, a *explain.Answer) error { return report.Encode(w, a) },
	}[f.format]
	if !ok {
		return fmt.Errorf("%w: --format %.20q, want table or json", errFlags, f.format)
	}
	raw, err := bounded.ReadFile(evidence, explain.MaxEvidence)
	if err != nil {
		return err
	}
	reported, err := explain.Decode(raw)
	if err != nil {
		return fmt.Errorf("evidence %q: %w", evidence, err)
	}
	in, err := f.inputs(reported.TEE, dir)
	if err != nil {
		return err
	}
	a, err := explain.Explain(reported, *in)
	if err != nil {
		return fmt.Errorf("evidence %q: %w", evidence, err)
	}
	if err := write(w, a); err != nil {
		return err
	}
	if !a.Fits() {
		return fmt.Errorf("%q: %w", evidence, errDiffers)
	}
	return nil
}

// inputs reads everything that was named.
func (f *explainFlags) inputs(tee, dir string) (*explain.Inputs, error) {
	in := &explain.Inputs{Launch: f.launch, VCPUs: f.vcpus, Expected: predict.DefaultVCPUs}
	for _, m := range f.memory {
		in.Memory = append(in.Memory, uint64(m))
	}
	for _, name := range append([]string{dir}, f.others...) {
		name = strings.TrimSuffix(filepath.Clean(name), "/"+manifest.Name)
		g, err := predict.Open(name, tee)
		if err != nil {
			return nil, fmt.Errorf("image %q: %w", name, err)
		}
		in.Images, in.Names = append(in.Images, g), append(in.Names, name)
	}
	for _, name := range f.firmware {
		if err := addFirmware(in, tee, name); err != nil {
			return nil, err
		}
	}
	var err error
	if in.Document, err = predict.Document(f.initdata); err != nil {
		return nil, err
	}
	if f.log != "" {
		in.Log, err = bounded.ReadFile(f.log, maxLog)
	}
	return in, err
}

// addFirmware reads a file, or those of a folder that are firmware.
func addFirmware(in *explain.Inputs, tee, name string) error {
	files, err := os.ReadDir(name)
	if err != nil {
		return addFile(in, tee, name)
	}
	for _, f := range files {
		if !f.Type().IsRegular() {
			continue
		}
		if err := addFile(in, tee, filepath.Join(name, f.Name())); err != nil && !errors.Is(err, explain.ErrFirmware) {
			return err
		}
	}
	return nil
}

func addFile(in *explain.Inputs, tee, name string) error {
	raw, err := bounded.ReadFile(name, maxFirmware)
	if err != nil {
		return err
	}
	f, err := explain.NewFirmware(tee, name, raw)
	if err != nil {
		return err
	}
	in.Firmware = append(in.Firmware, f)
	return nil
}

// writeAnswer is for people.
func writeAnswer(w io.Writer, a *explain.Answer) error {
	var b strings.Builder
	for _, f := range a.Findings {
		fmt.Fprintf(&b, "%-9s  %s\n           %s\n", f.Verdict, f.Register, f.Value)
		if len(f.With) > 0 {
			var with []string
			for _, p := range f.With {
				with = append(with, p.Name+" "+p.Value)
			}
			fmt.Fprintf(&b, "           is of %s\n", strings.Join(with, ", "))
		}
		for _, because := range f.Because {
			fmt.Fprintf(&b, "           - %s\n", because)
		}
		for _, suspect := range f.Suspects {
			fmt.Fprintf(&b, "           ? %s\n", suspect)
		}
	}
	for _, n := range a.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	fmt.Fprintf(&b, "%d values were compared. No signature was: trustee verify does that.\n", a.Tried)
	_, err := io.WriteString(w, b.String())
	return err
}
