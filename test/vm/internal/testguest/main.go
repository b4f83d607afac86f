// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Command testguest is a guest binary whose guest role checks, from inside,
// what PID 1 made of the machine. It prints one line per check to the console,
// which the test on the host reads.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/internal/cmdline"
	"cocoon/rootfs/boot"
)

// Words of the kernel command line that steer the checks.
const (
	paramMode = "testguest.mode" // checks, crash, panic, stop, tpm
	paramPeer = "testguest.peer" // address that answers with a greeting
)

func main() {
	if os.Getpid() == 1 {
		os.Exit(boot.Main(context.Background()))
	}
	role := ""
	if len(os.Args) > 1 {
		role = os.Args[1]
	}
	os.Exit(run(role))
}

func run(role string) int {
	switch role {
	case boot.RoleGuest:
		return guest()
	case "pivot":
		return report("pivot_root in a new mount namespace", pivot())
	case "orphan":
		return orphan()
	case "sleeper":
		time.Sleep(50 * time.Millisecond)
		return 0
	}
	fmt.Fprintf(os.Stderr, "testguest: unknown role %q\n", role)
	return 2
}

func guest() int {
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return report("read the command line", err)
	}
	line, err := cmdline.Parse(string(text))
	if err != nil {
		return report("parse the command line", err)
	}
	fmt.Printf("READY after %d ms\n", readyAfter().Milliseconds())
	mode, _ := line.Value(paramMode)
	switch mode {
	case "crash":
		fmt.Println("about to crash")
		return 3
	case "panic":
		panic("the guest role panics on request")
	case "stop":
		return awaitStop()
	case "tpm":
		return report("attestation by the TPM", attestByTPM())
	}
	peer, _ := line.Value(paramPeer)
	return runChecks(peer)
}

// awaitStop asks PID 1 to end the machine and expects to be asked to stop.
func awaitStop() int {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM)
	if err := unix.Kill(1, unix.SIGTERM); err != nil {
		return report("signal PID 1", err)
	}
	select {
	case <-stop:
		return report("asked to stop", nil)
	case <-time.After(5 * time.Second):
		return report("asked to stop", context.DeadlineExceeded)
	}
}

func readyAfter() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

func runChecks(peer string) int {
	failed := 0
	for _, c := range checks(peer) {
		failed += report(c.name, c.run())
	}
	if failed > 0 {
		fmt.Printf("CHECKS %d failed\n", failed)
		return 1
	}
	fmt.Printf("CHECKS all %d passed\n", len(checks(peer)))
	return 0
}

// report prints the result of a check and returns 1 if it failed.
func report(name string, err error) int {
	if err != nil {
		fmt.Printf("FAIL %s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", "; "))
		return 1
	}
	fmt.Printf("PASS %s\n", name)
	return 0
}
