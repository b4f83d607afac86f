// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

	// Rules for devices in cgroups; without it a container with any is refused.
	_ "github.com/opencontainers/cgroups/devices"
	"github.com/opencontainers/runc/libcontainer"
	// The C constructor that enters namespaces before Go's runtime starts.
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
)

// init diverts the process that libcontainer re-executes to become a
// container's init, before anything else of ours runs. PID 1 is never that
// process: its arguments come from the kernel command line.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" && os.Getpid() != 1 && os.Getenv("_LIBCONTAINER_INITPIPE") != "" {
		libcontainer.Init()
	}
}
