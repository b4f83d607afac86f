// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cocoon/mkimage/image"
	"cocoon/mkimage/manifest"
)

// errDiffer makes the exit code that of diff(1).
var errDiffer = errors.New("the images differ")

func diffCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "diff DIR DIR",
		Short: "tell by component how two images differ, and which measurements that changes",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			one, err := describeImage(args[0])
			if err != nil {
				return err
			}
			two, err := describeImage(args[1])
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			lines := compare(one, two)
			if len(lines) == 0 {
				_, err := fmt.Fprintln(out, "the images are the same")
				return err
			}
			for _, l := range lines {
				fmt.Fprintln(out, l)
			}
			return errDiffer
		},
	}
}

// description is an image and a text for everything in it, by its name.
type description struct {
	man   *manifest.Manifest
	facts map[string]string
}

func describeImage(dir string) (description, error) {
	m, err := image.Open(dir)
	if err != nil {
		return description{}, err
	}
	f := map[string]string{
		"profile": m.Profile, "guest": m.Guest, "layout": m.Layout, "kernel release": m.Release, "command line": m.Cmdline,
		"source date epoch": fmt.Sprint(m.Epoch), "Go of mkimage": m.Tools.Go, "Go of the binary": m.Tools.BinaryGo,
	}
	for _, in := range m.Inputs {
		f["input "+in.Name] = in.File + " " + in.SHA256
	}
	for _, o := range m.Outputs {
		f["output "+o.Name] = o.SHA256
	}
	for _, mod := range m.Tools.Modules {
		f["Go module "+mod.Path] = mod.Version
	}
	if m.Verity != nil {
		f["root hash"] = m.Verity.RootHash
	}
	if h, err := image.SEHeader(dir, m); err == nil {
		f["tag"] = fmt.Sprintf("%x", h.Tag)
	} else if !errors.Is(err, image.ErrUnsealed) {
		return description{}, err
	}
	entries, err := image.Root(dir, m)
	if err != nil {
		return description{}, err
	}
	for _, e := range entries {
		f["file /"+e.Path] = strings.Join(strings.Fields(describe(e)), " ")
	}
	return description{man: m, facts: f}, nil
}

// compare returns a line for each thing that differs, causes before what
// follows from them, and at the end the measurements that change.
func compare(one, two description) []string {
	names := map[string]bool{}
	for _, d := range []description{one, two} {
		for name := range d.facts {
			names[name] = true
		}
	}
	var lines []string
	differs := map[string]bool{}
	for _, name := range slices.SortedFunc(maps.Keys(names), byKind) {
		a, b := cmp.Or(one.facts[name], "absent"), cmp.Or(two.facts[name], "absent")
		if a != b {
			lines = append(lines, name+": "+a+" → "+b)
			differs[name] = true
		}
	}
	// The command line names the root on a disk by its hash.
	differs["command line"] = differs["command line"] || differs["root hash"]
	tees := slices.Concat(one.man.TEEs, two.man.TEEs)
	for _, r := range registers() {
		if slices.Contains(tees, r.tee) && slices.ContainsFunc(r.of, func(name string) bool { return differs[name] }) {
			lines = append(lines, "changes "+r.name)
		}
	}
	return lines
}

// register is a measurement, and what it is of.
type register struct {
	tee, name string
	of        []string
}

func registers() []register {
	return []register{
		{"snp", "the SNP launch digest", []string{"output kernel", "output initrd", "command line"}},
		{"tdx", "TDX RTMR1", []string{"output kernel"}},
		{"tdx", "TDX RTMR2", []string{"output initrd", "command line"}},
		{"vtpm", "PCR 4, 9 and 11 of the TPM", []string{"output uki"}},
		{"se", "the tag of Secure Execution", []string{"output kernel", "output initrd", "command line", "tag"}},
	}
}

// byKind sorts causes first.
func byKind(a, b string) int {
	rank := func(s string) int {
		for i, prefix := range []string{"profile", "guest", "layout", "input ", "Go ", "kernel release", "source date", "command line", "file ", "root hash"} {
			if strings.HasPrefix(s, prefix) {
				return i
			}
		}
		return 99
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a, b))
}
