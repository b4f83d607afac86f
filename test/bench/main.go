// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Command bench measures the guest beside the programs that do the same work
// elsewhere: runc, containerd, skopeo and umoci.
//
// Everything is measured in one run, on a tmpfs, in mount and network
// namespaces of its own, ours and the peer's in turns, and reported as medians
// in one table and as JSON. Aims are shown, and a missed one is no failure:
// numbers depend on the machine, and a failure would teach nobody anything.
// It trusts the machine it runs on and needs root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The roles in which the program starts itself.
const (
	roleInside   = "inside-namespaces"
	roleRegistry = "registry"
	rolePull     = "pull"
)

func main() {
	ctx, stop := signals()
	err := dispatch(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func dispatch(ctx context.Context, args []string) error {
	switch {
	case len(args) == 2 && args[0] == roleRegistry:
		return serveRegistry(ctx, args[1])
	case len(args) == 5 && args[0] == rolePull:
		return pullRole(ctx, pullOrder{dir: args[1], ref: args[2], ca: args[3], profile: args[4]})
	case len(args) > 1 && args[0] == roleInside:
		o, err := parseOptions(args[2:])
		if err != nil {
			return err
		}
		return measureAll(ctx, o, args[1])
	}
	if _, err := parseOptions(args); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("containers and mounts need root")
	}
	return inNamespaces(ctx, args)
}

// options are the flags.
type options struct {
	bin, image, json string
	profile, lock    string
	only             []string
	rounds           int
}

func parseOptions(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.bin, "bin", "out/bin", "`directory` with the guest binary")
	f.StringVar(&o.image, "image", "out/image/dev", "`directory` with the guest image")
	f.StringVar(&o.lock, "lock", "", "lock `file` of the packages that images are made of, for the sections image and measurements")
	f.StringVar(&o.json, "json", "out/bench.json", "`file` for the table as JSON")
	f.IntVar(&o.rounds, "rounds", 40, "how many containers and processes to start on each side")
	f.StringVar(&o.profile, "profile", "", "`file` for a CPU profile of our last pull")
	only := f.String("only", "", "comma-separated `sections` instead of all: "+strings.Join(sectionNames(), ", "))
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 || o.rounds < 1 {
		return o, errors.New("unexpected argument, or no round at all")
	}
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	for _, p := range []*string{&o.bin, &o.image, &o.json, &o.profile, &o.lock} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return o, err
		}
		*p = abs
	}
	return o, checkSections(o.only)
}
