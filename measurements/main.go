// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Command measurements predicts what the hardware reports about a guest that
// runs an image of mkimage: from the image, the firmware and how the guest is
// launched, and nothing else. It needs no TEE and no network.
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
		fmt.Fprintln(os.Stderr, "measurements:", err)
		stop()
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "measurements",
		Short:         "predict what the hardware reports about a guest",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(snpCommand(), idBlockCommand(), tdxCommand(), vtpmCommand(), seCommand(), verityCommand(), explainCommand(), verifyCommand())
	return root
}
