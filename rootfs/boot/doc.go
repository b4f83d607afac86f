// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package boot is PID 1 of the guest: it turns what the kernel unpacked into a
// system that containers can run in, starts the guest role, reaps every orphan,
// and powers the machine off when the guest role ends.
//
// Trust: PID 1 reads the kernel command line, which is part of the launch
// measurement of a confidential guest, and files of the measured image. It
// parses nothing else, has no socket, and starts nothing but its own binary in
// the guest role. The host decides the clock, the devices and when the machine
// stops; it can end the guest, and that is all it can do here.
//
// The order of the steps is the table returned by Steps. A step that fails, a
// panic, and the end of the guest role all lead to the same place: the reason
// goes to the kernel log and the machine is powered off. Nothing is restarted,
// because the state of policy and attestation died with the process, and there
// is no shell.
//
// # What main has to do
//
//	switch {
//	case len(os.Args) > 1 && os.Args[1] == "init": // libcontainer, decided before anything else
//	case os.Getpid() == 1:
//		os.Exit(boot.Main(context.Background()))
//	case len(os.Args) > 1 && os.Args[1] == boot.RoleGuest:
//		// the guest role
//	}
//
// # What the guest role gets
//
// Arguments "cocoon guest"; working directory /; its own session; the
// environment of RoleEnv and nothing that the kernel passed to PID 1; standard
// input /dev/null; standard output and error are pipes to PID 1, which copies
// complete lines to the kernel log (a line may start with "<N>", N being a
// syslog severity) and keeps the last of them for the report of a crash. It
// starts inside the cgroup RoleCgroup, so that the root cgroup may distribute
// controllers. It finds the time each boot step took in TimelinePath. SIGTERM
// asks it to stop; it has StopTimeout. Exit code 0 means that the pod is over.
package boot
