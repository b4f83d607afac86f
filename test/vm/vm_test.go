// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cocoon/attest/tee/tpm/tpmtest"
	"cocoon/mkimage/image"
	"cocoon/mkimage/lock"
	"cocoon/mkimage/profile"
	"cocoon/test/vm"
)

// Variables of the environment.
const (
	// lockVariable names the lock file of the guest kernel, beside which the
	// package lies. It is what "mkimage lock" makes.
	lockVariable = "COCOON_KERNEL_LOCK"
	// limit is for a boot on a machine that is busy with other tests; alone it
	// takes three seconds.
	limit = 90 * time.Second
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestGuest boots one image in many ways.
func TestGuest(t *testing.T) {
	t.Parallel()
	dir := buildImage(t)
	for name, test := range map[string]func(*testing.T, string){
		"the guest finds the machine that it needs":                   guestChecks,
		"a server gives the machine its network":                      networkFromServer,
		"a guest attests with the TPM of its machine":                 attestsByTPM,
		"a crashing guest role ends the machine with its last words":  roleCrashes,
		"a panicking guest role ends the machine with its last words": rolePanics,
		"a stop signal to PID 1 stops the guest role first":           stopSignal,
		"a bad command line ends the machine with a reason":           badCommandLine,
		"waiting for a marker that never comes ends":                  missingMarker,
		"a closed guest is gone":                                      closedGuest,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, dir)
		})
	}
}

// buildImage builds the image of the test guest. It skips where there is no
// QEMU or no kernel.
func buildImage(t *testing.T) string {
	t.Helper()
	needMachine(t)
	return build(t, named(t, "dev"), compile(t, "./internal/testguest"), "")
}

// named returns a profile.
func named(t *testing.T, name string) profile.Profile {
	t.Helper()
	p, err := profile.Named(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// compile builds a program of this repository without cgo.
func compile(t *testing.T, what string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), filepath.Base(what))
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false",
		"-tags", "netgo,osusergo", "-ldflags", "-s -w -buildid=", "-o", binary, what)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", what, err, out)
	}
	return binary
}

// build builds an image with the locked kernel.
func build(t *testing.T, p profile.Profile, binary, first string) string {
	t.Helper()
	dir, lockFile := t.TempDir(), os.Getenv(lockVariable)
	l := lock.Locker{Run: lock.RunCommand, Cache: filepath.Dir(lockFile), Progress: t.Logf}
	if _, err := lock.Read(lockFile); err != nil {
		t.Fatal(err)
	}
	deb, k, err := l.Package(t.Context(), lockFile, p.Kernel, false)
	if err != nil {
		t.Fatal(err)
	}
	in := image.Inputs{Profile: p, KernelDeb: deb, KernelSHA256: k.SHA256, Binary: binary, First: first}
	if p.Stub != "" {
		stub, k, err := l.Package(t.Context(), lockFile, p.Stub, false)
		if err != nil {
			t.Fatal(err)
		}
		in.StubDeb, in.StubSHA256 = stub, k.SHA256
	}
	if _, err := image.Build(t.Context(), in, dir, t.Logf); err != nil {
		t.Fatal(err)
	}
	return dir
}

func boot(t *testing.T, dir string, o vm.Options) *vm.Guest {
	t.Helper()
	network := func(word string) bool { return strings.HasPrefix(word, "ip=") }
	if !slices.ContainsFunc(o.Append, network) {
		o.Append = append(o.Append, "ip=10.0.2.15::10.0.2.2:255.255.255.0:testguest::off:10.0.2.3")
	}
	g, err := vm.Start(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

// greet serves a greeting on loopback, which guests reach at 10.0.2.2.
func greet(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := io.WriteString(c, "hello from the host"); err != nil {
				t.Errorf("greet the guest: %v", err)
			}
			if err := c.Close(); err != nil {
				t.Errorf("close the greeting: %v", err)
			}
		}
	}()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return "10.0.2.2:" + port
}

func expect(t *testing.T, g *vm.Guest, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err := g.WaitFor(t.Context(), text, limit); err != nil {
			t.Fatal(err)
		}
	}
}

func powersOff(t *testing.T, g *vm.Guest) {
	t.Helper()
	if err := g.Wait(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	console := g.Console()
	if !strings.Contains(console, vm.PowerDown) || strings.Contains(console, "Kernel panic") {
		t.Errorf("the guest did not power off in order:\n%s", console)
	}
}

// networkFromServer runs the same checks with the address that the machine's
// own DHCP server gives.
func networkFromServer(t *testing.T, dir string) {
	g := boot(t, dir, vm.Options{Append: []string{"testguest.mode=checks", "testguest.peer=" + greet(t), "ip=::::testguest::dhcp"}})
	expect(t, g, "guest: CHECKS ", "init: guest role finished")
	powersOff(t, g)
	if c := g.Console(); strings.Contains(c, "FAIL") || !strings.Contains(c, "CHECKS all ") {
		t.Errorf("checks failed in the guest:\n%s", c)
	}
}

func guestChecks(t *testing.T, dir string) {
	g := boot(t, dir, vm.Options{Append: []string{"testguest.mode=checks", "testguest.peer=" + greet(t)}})
	expect(t, g, "init: boot finished", "guest: CHECKS ", "init: guest role finished")
	powersOff(t, g)
	if c := g.Console(); strings.Contains(c, "FAIL") || !regexp.MustCompile(`CHECKS all \d+ passed`).MatchString(c) {
		t.Errorf("checks failed in the guest:\n%s", c)
	}
	ready := regexp.MustCompile(`READY after (\d+) ms`).FindStringSubmatch(g.Console())
	if ready == nil {
		t.Fatalf("the guest role did not say when it was ready:\n%s", g.Console())
	}
	ms, err := strconv.Atoi(ready[1])
	if err != nil || ms <= 0 {
		t.Errorf("ready after %q", ready[1])
	}
	t.Logf("guest role ready after %d ms of guest time", ms)
}

func attestsByTPM(t *testing.T, dir string) {
	for _, device := range []string{"tpm-crb", "tpm-tis"} {
		g := boot(t, dir, vm.Options{
			Append: []string{"testguest.mode=tpm"},
			Extra:  softwareTPM(t, device),
		})
		expect(t, g, "attestation by the TPM")
		powersOff(t, g)
		if !strings.Contains(g.Console(), "PASS attestation by the TPM") {
			t.Errorf("%s:\n%s", device, g.Console())
		}
	}
}

// softwareTPM returns the arguments of QEMU for a new TPM behind a device.
func softwareTPM(t *testing.T, device string) []string {
	t.Helper()
	return []string{
		"-chardev", "socket,id=tpm,path=" + tpmtest.StartControlled(t), "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", device + ",tpmdev=tpm0",
	}
}

func roleCrashes(t *testing.T, dir string) {
	roleDies(t, dir, "crash", "last words: about to crash", "init: fatal: the guest role ended with exit code 3")
}

func rolePanics(t *testing.T, dir string) {
	roleDies(t, dir, "panic", "last words: panic: the guest role panics on request", "init: fatal: the guest role ended with exit code 2")
}

func roleDies(t *testing.T, dir, mode string, want ...string) {
	t.Helper()
	// Release images show errors only: the reason must be among them.
	g := boot(t, dir, vm.Options{Append: []string{"testguest.mode=" + mode, "cocoon.console=4"}})
	expect(t, g, want...)
	powersOff(t, g)
}

func stopSignal(t *testing.T, dir string) {
	g := boot(t, dir, vm.Options{Append: []string{"testguest.mode=stop"}})
	expect(t, g, "init: stopping the guest role", "guest: PASS asked to stop", "init: guest role finished")
	powersOff(t, g)
}

func badCommandLine(t *testing.T, dir string) {
	g := boot(t, dir, vm.Options{Append: []string{"cocoon.console=loud"}})
	expect(t, g, `init: fatal: boot step "command line": kernel parameter cocoon.console="loud" is not a level from 1 to 8`)
	powersOff(t, g)
	if strings.Contains(g.Console(), "READY") {
		t.Error("the guest role was started nevertheless")
	}
}

func missingMarker(t *testing.T, dir string) {
	g := boot(t, dir, vm.Options{Append: []string{"testguest.mode=crash"}})
	if err := g.WaitFor(t.Context(), "never", time.Millisecond); !errors.Is(err, vm.ErrTimeout) {
		t.Errorf("got %v, want ErrTimeout", err)
	}
	if err := g.WaitFor(t.Context(), "never", limit); !errors.Is(err, vm.ErrEnded) {
		t.Errorf("got %v, want ErrEnded", err)
	}
}

func closedGuest(t *testing.T, dir string) {
	g := boot(t, dir, vm.Options{GuestPorts: []int{1024, 15150}})
	if a, b := g.Addr(1024), g.Addr(15150); a == "" || b == "" || a == b || g.Addr(1) != "" {
		t.Errorf("addresses are %q, %q and %q", a, b, g.Addr(1))
	}
	g.Close()
	if err := g.Wait(t.Context(), limit); err == nil {
		t.Error("a killed machine ended without an error")
	}
	g.Close()
}
