// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Command mkimage builds guest images, shows what is in them, and starts them
// in QEMU.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		stop()
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "mkimage",
		Short:         "build guest images",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(buildCommand(), lockCommand(), inspectCommand(), diffCommand(), bootCommand(), profilesCommand(), sealCommand())
	return root
}

// progress prints a line to standard error, so that standard output stays
// usable in a pipe.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "mkimage: "+format+"\n", args...)
}
