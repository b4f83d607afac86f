// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"

	"cocoon/internal/config"
)

// options are the flags of the guest role. PID 1 passes none; they are for a
// run on a development machine.
type options struct {
	listen string // address, overrides the configuration
	policy string // file with the policy in force at start
	aa     string // aa.toml
	cdh    string // cdh.toml
	root   string // everything that is written lies below it
	tee    string // platform, instead of detection
	device bool   // attest an attached device of the sample kind too
	rest   string // address of the REST API
}

func parseOptions(args []string, errs io.Writer) (options, error) {
	return parseOptionsOf("cocoon guest", args, errs)
}

// parseOptionsOf is parseOptions for another command with the same flags.
func parseOptionsOf(command string, args []string, errs io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet(command, flag.ContinueOnError)
	f.SetOutput(io.Discard) // errors are one line, printed below
	f.Usage = func() {
		f.SetOutput(errs)
		f.PrintDefaults()
	}
	f.StringVar(&o.listen, "agent-listen", "", "serve the agent at `address`: unix:///path, tcp://ip:port or vsock://cid:port")
	f.StringVar(&o.policy, "policy", "", "`file` with the policy to start with; without one every request is refused")
	f.StringVar(&o.aa, "aa-config", "", "aa.toml `file`")
	f.StringVar(&o.cdh, "cdh-config", "", "cdh.toml `file`")
	f.StringVar(&o.root, "root", "", "write below `dir` instead of /run")
	f.StringVar(&o.tee, "tee", "", "attest as `platform` instead of detecting it; sample proves nothing")
	f.BoolVar(&o.device, "sample-device", false, "attest an attached device too, which proves nothing")
	f.StringVar(&o.rest, "rest-listen", "", "loopback `address` of the REST API, default 127.0.0.1:8006")
	if err := o.parse(f, args); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintf(errs, "%s: %v; see %[1]s -h\n", command, err)
		}
		return o, err
	}
	if o.root != "" {
		abs, err := filepath.Abs(o.root)
		if err != nil {
			return o, err
		}
		o.root = abs
	}
	return o, nil
}

func (o *options) parse(f *flag.FlagSet, args []string) error {
	usage := f.Usage
	f.Usage = func() {} // the flag package calls it for every mistake
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		usage()
		return err
	case err != nil:
		return err
	case f.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if o.listen == "" {
		return nil
	}
	if _, err := config.ParseAddress(o.listen); err != nil {
		return fmt.Errorf("--agent-listen: %w", err)
	}
	return nil
}

// any tells whether a flag was given.
func (o options) any() bool { return o != (options{}) }
