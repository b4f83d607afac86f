// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"runtime"

	// Rules for devices in cgroups; without it a container with any is refused.
	_ "github.com/opencontainers/cgroups/devices"
	// The C constructor that enters namespaces before Go's runtime starts.
	_ "github.com/opencontainers/runc/libcontainer/nsenter"

	"github.com/opencontainers/runc/libcontainer"
)

const initPipe = "_LIBCONTAINER_INITPIPE"

// init diverts the process that libcontainer re-executes to become a
// container's init, before anything else of ours runs. It may be PID 1 of a new
// namespace; the variable, which the C constructor goes by as well, tells it
// from PID 1 of the machine.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" && os.Getenv(initPipe) != "" {
		libcontainer.Init()
	}
	// libcontainer moves threads of the agent into a container's mount namespace
	// and throws them away. Go never throws the first thread away, by which
	// /proc/self goes: main keeps it, so that no other goroutine gets there.
	runtime.LockOSThread()
}
