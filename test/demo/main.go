// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Command demo tells the whole story of Cocoon in one run and checks it.
//
// It starts a key broker and a registry on loopback, pushes an encrypted
// image, boots the guest in QEMU, drives it over mutual TLS as the kata shim
// and cloud-api-adaptor do, and looks at every result. It ends with a table of
// what was checked and with status 1 if any check did not hold. It trusts the
// machine that it runs on: here the operator, the pod's owner and the host are
// one and the same.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "out/bin", "directory with cocoon, trustee and mkimage")
	flag.StringVar(&o.image, "image", "out/image/dev", "directory with the guest image")
	flag.BoolVar(&o.keep, "keep", false, "leave the working directory with logs for a look")
	flag.BoolVar(&o.console, "console", false, "show the guest's console while it runs")
	limit := flag.Duration("timeout", 5*time.Minute, "how long the whole run may take")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "demo: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		stop()
		cancel()
		os.Exit(1)
	}
}

type options struct {
	bin, image    string
	keep, console bool
}

func run(ctx context.Context, o options) (err error) {
	for _, p := range []*string{&o.bin, &o.image} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "cocoon-demo-")
	if err != nil {
		return err
	}
	if o.keep {
		fmt.Println("logs and files of this run stay in", dir)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	s := &story{opt: o, dir: dir, report: &report{out: os.Stdout}}
	defer func() { err = errors.Join(err, s.cleanUp()) }()
	err = s.tell(ctx)
	s.report.table()
	return errors.Join(err, s.report.failed())
}
