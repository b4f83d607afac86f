// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Command cocoon is the whole guest of a confidential container.
//
// As PID 1 it boots the virtual machine and starts itself once more in the
// guest role, which is the Kata agent, the attestation agent, the confidential
// data hub, the image puller and the peer-pod forwarder in one process. This
// package chooses the role and joins the parts; it holds no logic of theirs.
//
// Trust: the kernel command line and the files of the root are measured with
// the image. Everything else that reaches a role comes from the host.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"cocoon/agent/pause"
	"cocoon/agent/policy/replay"
	"cocoon/attest/tool"
	"cocoon/rootfs/boot"
)

// version is the Kata API release whose agent this binary stands in for; shims
// log it and compare nothing but its presence.
const version = "4.1.0"

func main() {
	switch role, args := chooseRole(os.Args, os.Getpid()); role {
	case roleInit:
		os.Exit(boot.Main(context.Background()))
	case rolePause:
		pause.Run(context.Background())
	case roleGuest:
		os.Exit(guestMain(args))
	case roleConfig:
		os.Exit(configMain(args, os.Stdout, os.Stderr))
	case rolePolicy:
		os.Exit(replay.Main(context.Background(), args, replay.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
	case roleAttest:
		os.Exit(tool.Main(context.Background(), args, tool.Streams{Out: os.Stdout, Err: os.Stderr}))
	case roleVersion:
		os.Exit(printVersion(os.Stdout))
	default:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
}

const usage = `usage: cocoon guest [flags]   serve a pod (see cocoon guest -h)
       cocoon config [--json] say what is configured, and from where
       cocoon policy …        explain and test a policy (see cocoon policy help)
       cocoon attest …        TEE, evidence, token and event log of this guest
       cocoon version         say what this binary is

As PID 1 it boots the machine. As /pause it holds a pod's namespaces.
`

type role int

const (
	roleUnknown role = iota
	roleInit
	rolePause
	roleGuest
	rolePolicy
	roleAttest
	roleConfig
	roleVersion
)

// chooseRole tells what this process is for, and the arguments that are left
// for it. A sandbox container's pause program is PID 1 of its namespace, and
// the kernel starts PID 1 of the machine as /init with arguments from its
// command line, which do not count. libcontainer's re-executed child never comes here, see init.go.
func chooseRole(args []string, pid int) (role, []string) {
	switch {
	case pause.Wanted(args):
		return rolePause, nil
	case pid == 1:
		return roleInit, nil
	case len(args) > 1 && args[1] == boot.RoleGuest:
		return roleGuest, args[2:]
	case len(args) > 1 && args[1] == "config":
		return roleConfig, args[2:]
	case len(args) > 1 && args[1] == "policy":
		return rolePolicy, args[2:]
	case len(args) > 1 && args[1] == "attest":
		return roleAttest, args[2:]
	case len(args) == 2 && args[1] == "version":
		return roleVersion, nil
	}
	return roleUnknown, nil
}

// guestMain runs the guest role until the pod is over or the process is asked
// to stop.
func guestMain(args []string) int {
	o, err := parseOptions(args, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2 // it has said why
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := serveGuest(ctx, o); err != nil {
		fmt.Fprintf(os.Stderr, "<3>%v\n", err)
		return 1
	}
	return 0
}

func printVersion(w io.Writer) int {
	line := "cocoon, agent API " + version
	if info, ok := debug.ReadBuildInfo(); ok {
		line += ", " + info.GoVersion
	}
	if _, err := fmt.Fprintln(w, line); err != nil {
		return 1
	}
	return 0
}
