// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cocoon/measurements/predict"
	"cocoon/measurements/report"
)

// errFlags is wrapped by errors about options that do not fit.
var errFlags = predict.ErrOptions

// outputFlags say what is printed, and for which pod.
type outputFlags struct {
	format, initdata string
	explain          bool
}

func (o *outputFlags) add(f *pflag.FlagSet) {
	f.StringVar(&o.initdata, "initdata", "", "initdata document of a pod, for the register that confirms it as well")
	f.StringVar(&o.format, "format", "table", strings.Join(slices.Sorted(maps.Keys(report.Formats())), ", ")+"; reference is for trustee reference set")
	f.BoolVar(&o.explain, "explain", false, "show how the value came about, step by step; html always does")
}

// run predicts and writes in the format that was asked for.
func (o *outputFlags) run(predict func(dir string) (*report.Report, error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		write, ok := report.Formats()[o.format]
		if !ok {
			return fmt.Errorf("%w: --format %.20q, want %s", errFlags, o.format, strings.Join(slices.Sorted(maps.Keys(report.Formats())), ", "))
		}
		r, err := predict(args[0])
		if err != nil {
			return err
		}
		for i := range r.Results {
			if !o.explain && o.format != report.HTML {
				r.Results[i].Steps = nil
			}
		}
		return write(cmd.OutOrStdout(), r)
	}
}

// launchFlags say how a kata shim launches the guest.
type launchFlags struct {
	firmware string
	launch   predict.Launch
}

func (l *launchFlags) addLaunch(f *pflag.FlagSet) {
	def := predict.DefaultLaunch()
	f.StringVar(&l.firmware, "firmware", "", "firmware image that the guest is launched with (required)")
	f.StringSliceVar(&l.launch.Shims, "shim", def.Shims, "kata shims that may launch it: go, rs")
	f.StringVar(&l.launch.Cmdline, "cmdline", "", "the whole kernel command line, instead of what a shim would compose")
	f.StringVar(&l.launch.Params, "kernel-params", "", "further kernel_params of the shim, behind the image's own")
	f.StringArrayVar(&l.launch.Agent, "agent", def.Agent, "NAME=VALUE of a setting that the shim writes as agent.NAME; may be repeated")
}

// open reads image and firmware.
func (l *launchFlags) open(dir, tee string) (*predict.Guest, error) {
	if l.firmware == "" {
		return nil, fmt.Errorf("%w: --firmware is required", errFlags)
	}
	g, err := predict.Open(dir, tee)
	if err != nil {
		return nil, err
	}
	return g, g.LoadFirmware(l.firmware)
}

// reportOf makes a report of the results for a guest.
func reportOf(g *predict.Guest) func([]predict.Result, error) (*report.Report, error) {
	return func(results []predict.Result, err error) (*report.Report, error) {
		return &report.Report{Image: g.Image, Firmware: g.Firmware, Results: results}, err
	}
}
