// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTheCommandLineDescribesTheMachine(t *testing.T) {
	t.Parallel()
	args, err := Config{
		Kernel: "k", Initrd: "i", Cmdline: "a=1 b", MemoryMiB: 256, Disks: []Disk{{File: "a,b.iso", ReadOnly: true}, {File: "rw"}},
		Forwards: []Forward{{HostPort: 1000, GuestPort: 15150}}, Channels: []Channel{{Name: "n", Socket: "s"}}, Extra: []string{"-x"},
	}.Args()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]string{
		{"-kernel", "k"}, {"-initrd", "i"}, {"-append", "a=1 b"}, {"-m", "256"}, {"-smp", "1"}, {"-machine", "q35"},
		{"-accel", "tcg,thread=multi"}, {"-cpu", "max,-cx16"},
		{"-drive", "if=none,id=disk0,format=raw,file=a,,b.iso,readonly=on", "-device", "virtio-blk-pci,drive=disk0"},
		{"-drive", "if=none,id=disk1,format=raw,file=rw", "-device", "virtio-blk-pci,drive=disk1"},
		{"-netdev", "user,id=net0,hostfwd=tcp:127.0.0.1:1000-:15150"},
		{"-chardev", "socket,id=chan0,path=s,server=on,wait=off", "-device", "virtserialport,chardev=chan0,name=n"},
	} {
		if i := slices.Index(args, want[len(want)-1]); i < len(want)-1 || !slices.Equal(args[i-len(want)+1:i+1], want) {
			t.Errorf("arguments lack %q: %q", want, args)
		}
	}
	if args[len(args)-1] != "-x" || slices.Contains(args, "-enable-kvm") {
		t.Errorf("arguments are %q", args)
	}
}

func TestFirmwareStartsTheFirstDisk(t *testing.T) {
	t.Parallel()
	args, err := Config{Firmware: "f,w", MemoryMiB: 256, Disks: []Disk{{File: "a"}, {File: "b"}}}.Args()
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(args, " ")
	for _, want := range []string{"-drive if=pflash,unit=0,format=raw,readonly=on,file=f,,w", "drive=disk0,bootindex=0 ", "drive=disk1 "} {
		if !strings.Contains(all, want) {
			t.Errorf("arguments lack %q: %s", want, all)
		}
	}
	if strings.Contains(all, "-kernel") || strings.Contains(all, "-append") {
		t.Errorf("arguments: %s", all)
	}
}

func TestMachinesThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]Config{
		"no kernel": {MemoryMiB: 256}, "no disk": {Firmware: "f", MemoryMiB: 256},
		"command line without a kernel": {Firmware: "f", Disks: []Disk{{File: "a"}}, Cmdline: "x", MemoryMiB: 256},
		"initrd without a kernel":       {Firmware: "f", Disks: []Disk{{File: "a"}}, Initrd: "x", MemoryMiB: 256},
		"no memory":                     {Kernel: "k"}, "accelerator": {Kernel: "k", MemoryMiB: 256, Accel: "warp"},
	} {
		if _, err := Start(t.Context(), c, &bytes.Buffer{}); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: got %v, want ErrConfig", name, err)
		}
	}
}

func needQEMU(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(Binary); err != nil {
		t.Skipf("no QEMU: %v", err)
	}
}

func TestAMachineThatDoesNotStartSaysWhy(t *testing.T) {
	t.Parallel()
	needQEMU(t)
	m, err := Start(t.Context(), Config{Kernel: filepath.Join(t.TempDir(), "absent"), MemoryMiB: 64}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Wait(); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("got %v, want QEMU's own words", err)
	}
}

func TestTheEndOfTheContextEndsTheMachine(t *testing.T) {
	t.Parallel()
	needQEMU(t)
	kernel := filepath.Join(t.TempDir(), "kernel")
	// Too short to be a kernel with a setup part, so that the firmware idles.
	if err := os.WriteFile(kernel, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	m, err := Start(ctx, Config{Kernel: kernel, MemoryMiB: 64, Extra: []string{"-S"}}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := m.Wait(); err == nil {
		t.Error("a killed machine ended well")
	}
	m.Kill()
}

func TestAKernelThatDoesNotBootMeansEmulation(t *testing.T) {
	t.Parallel()
	needQEMU(t)
	kernel := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(kernel, []byte("no kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := Accel(t.Context(), kernel); got != TCG {
		t.Errorf("got %q", got)
	}
}

func TestAMarkerIsSeenAcrossWrites(t *testing.T) {
	t.Parallel()
	m := &marker{text: []byte("needle"), seen: make(chan struct{})}
	for _, s := range []string{"hay nee", "d", "x need", "l", "e hay", "needle"} {
		if _, err := m.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-m.seen:
	default:
		t.Error("the marker was not seen")
	}
	other := &marker{text: []byte("needle"), seen: make(chan struct{})}
	if _, err := other.Write([]byte("need le")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-other.seen:
		t.Error("a marker was seen that is not there")
	default:
	}
}
