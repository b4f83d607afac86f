// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package device

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAnEventOfTheKernelIsAnnounced(t *testing.T) {
	w, err := watchKernel()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}()
	// The kernel sends an event again for whoever writes its name.
	if err := os.WriteFile("/sys/class/mem/null/uevent", []byte("add"), 0); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.Changed():
	case <-time.After(10 * time.Second):
		t.Error("no announcement")
	}
}

func TestOnlyTheKernelIsBelieved(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		from unix.Sockaddr
		want bool
	}{
		{&unix.SockaddrNetlink{Pid: 0, Groups: kernelGroup}, true},
		{&unix.SockaddrNetlink{Pid: 77, Groups: kernelGroup}, false},
		{&unix.SockaddrInet4{}, false},
		{nil, false},
	} {
		if got := fromKernel(tc.from); got != tc.want {
			t.Errorf("%+v: %v", tc.from, got)
		}
	}
}

func TestOnlyAdditionsAreAnnounced(t *testing.T) {
	t.Parallel()
	for event, want := range map[string]bool{
		"add@/devices/pci0000:00/0000:00:03.0/virtio1/block/vda\x00ACTION=add\x00": true,
		"bind@/devices/x\x00":   true,
		"remove@/devices/x\x00": false,
		"add@/devices/x":        false,
		"add@\x00":              false,
		"add@x\x00":             false,
		"add\x00@/x":            false,
		"libudev\x00\xfe\xed":   false,
		"":                      false,
		"\x00":                  false,
	} {
		if got := isAddition([]byte(event)); got != want {
			t.Errorf("%q: %v", event, got)
		}
	}
}

func FuzzIsAddition(f *testing.F) {
	for _, s := range []string{"add@/devices/x\x00ACTION=add\x00", "remove@/x\x00", "@", "add@", "\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, event []byte) {
		if isAddition(event) && len(event) < len("add@/\x00") {
			t.Fatalf("%q is too short for an event", event)
		}
	})
}

func FuzzParseSCSI(f *testing.F) {
	for _, s := range []string{"0:0", "255:16383", "1:2:3", "-1:0", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, unit, err := parseSCSI(text)
		if err == nil && (id > maxSCSIID || unit > maxSCSIUnit) {
			t.Fatalf("%q became %d:%d", text, id, unit)
		}
	})
}

func TestAPCIDeviceIsHandedToVFIO(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	dir := "devices/pci0000:00/0000:00:02.0/0000:01:03.0"
	override := m.file(dir+"/driver_override", "")
	unbind := m.file("bus/pci/drivers/nvme/unbind", "")
	probe := m.file("bus/pci/drivers_probe", "")
	m.link(filepath.Join(m.sys, "bus/pci/drivers/nvme"), dir+"/driver")
	m.link("/sys/kernel/iommu_groups/12", dir+"/iommu_group")
	m.node("vfio/12", unix.S_IFCHR, 240, 1)
	address, group, err := m.VFIO(t.Context(), "02/03")
	if err != nil || address != "0000:01:03.0" || group.Number() != "240:1" || group.Type != "c" {
		t.Fatalf("%q %+v (%v)", address, group, err)
	}
	for file, want := range map[string]string{override: "vfio-pci", unbind: "0000:01:03.0", probe: "0000:01:03.0"} {
		if b, err := os.ReadFile(file); err != nil || string(b) != want {
			t.Errorf("%s: %q (%v), want %q", file, b, err, want)
		}
	}
}

func TestAPCIDeviceWithoutAGroupIsRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	dir := "devices/pci0000:00/0000:00:02.0"
	m.file(dir+"/driver_override", "")
	m.file("bus/pci/drivers_probe", "")
	if address, group, err := m.VFIO(t.Context(), "02"); err == nil {
		t.Errorf("%q %+v", address, group)
	}
	m.link("/sys/kernel/iommu_groups/../x", dir+"/iommu_group")
	if address, group, err := m.VFIO(t.Context(), "02"); err == nil {
		t.Errorf("%q %+v", address, group)
	}
}

func TestPCIAddresses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"0000:01:02.3": true, "ffff:FF:1f.7": true,
		"": false, "01:02.3": false, "0000:01:02": false, "0000:01:02.g": false, "0000-01:02.3": false, "0000:01:02.33": false,
	} {
		if got := IsPCIAddress(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestAQueueIsWaitedForAfterAScan(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	scans := m.file("bus/ap/scans", "")
	m.file("devices/ap/card05/05.0039/online", "1")
	m.node("z90crypt", unix.S_IFCHR, 10, 120)
	n, err := m.AP(t.Context(), []string{"05.0039"})
	if err != nil || n.Number() != "10:120" {
		t.Fatalf("%+v (%v)", n, err)
	}
	if b, err := os.ReadFile(scans); err != nil || string(b) != "1" {
		t.Errorf("scans: %q (%v)", b, err)
	}
	for _, q := range [][]string{nil, {""}, {"5.39"}, {"05.003"}, {"05/0039"}, {"../x/ab"}, {"05.0039", "zz.0000"}} {
		if n, err := m.AP(t.Context(), q); err == nil {
			t.Errorf("%q: %+v", q, n)
		}
	}
}
