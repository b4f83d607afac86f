// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// The pause program alone, for tests: a test binary is linked dynamically and
// does not run in an empty root.
package main

import (
	"context"
	"os"

	"cocoon/agent/pause"
)

func main() {
	if !pause.Wanted(os.Args) {
		os.Exit(1)
	}
	pause.Run(context.Background())
}
