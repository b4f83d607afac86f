// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"cocoon/measurements/selftest"
)

// errWrong is returned where this program predicts otherwise than others.
var errWrong = errors.New("predictions differ from those of other programs")

func verifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "check this program: predict what other programs predicted of the same files",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			checks, err := selftest.Run()
			return errors.Join(err, writeChecks(cmd.OutOrStdout(), checks))
		},
	}
}

// writeChecks prints a line for each and returns errWrong if one is not OK.
func writeChecks(w io.Writer, checks []selftest.Check) error {
	wrong, origin := 0, ""
	for _, c := range checks {
		if c.Origin != origin {
			origin = c.Origin
			fmt.Fprintf(w, "by %s:\n", origin)
		}
		if c.OK() {
			fmt.Fprintf(w, "  equal    %s\n", c.Name)
			continue
		}
		wrong++
		fmt.Fprintf(w, "  DIFFERS  %s\n           here %s\n           there %s\n", c.Name, c.Got, c.Want)
	}
	fmt.Fprintf(w, "%d of %d equal\n", len(checks)-wrong, len(checks))
	if wrong > 0 {
		return fmt.Errorf("%w: %d of %d", errWrong, wrong, len(checks))
	}
	return nil
}
