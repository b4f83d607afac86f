// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// sysfs makes directories as a kernel has them.
func sysfs(t *testing.T, dirs ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// errDeaf is the answer of a kernel that announces nothing.
var errDeaf = errors.New("no announcements")

// finder returns a Finder that looks below root and hears of no changes.
func finder(root string) *Finder {
	return New(Config{Sys: root, Dev: filepath.Join(root, "dev"), Watch: func() (Watcher, error) { return nil, errDeaf }})
}

func TestADeviceIsFoundByItsPath(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		device, dir, name string
	}{
		{"03", "devices/pci0000:00/0000:00:03.0/virtio1/net/eth0", "eth0"},
		{"03.1", "devices/pci0000:00/0000:00:03.1/net/ens3f1", "ens3f1"},
		{"02/01", "devices/pci0000:00/0000:00:02.0/0000:01:01.0/virtio4/net/eth1", "eth1"},
		{"2/1", "devices/pci0000:00/0000:00:02.0/0000:01:01.0/virtio4/net/eth1", "eth1"},
		{"20/00/02", "devices/pci0000:20/0000:20:00.0/0000:21:02.0/virtio0/net/eth2", "eth2"},
		{"02/01", "devices/platform/4010000000.pcie/pci0000:00/0000:00:02.0/0000:01:01.0/virtio0/net/eth3", "eth3"},
		{"0.0.0001", "devices/css0/0.0.0004/0.0.0001/virtio2/net/enc1", "enc1"},
	} {
		name, err := finder(sysfs(t, tc.dir)).WaitInterface(t.Context(), tc.device)
		if err != nil || name != tc.name {
			t.Errorf("%s: %q (%v), want %q", tc.device, name, err, tc.name)
		}
	}
}

// What a bridge announces counts more than the names of what is behind it.
func TestTheBusBehindABridgeIsTheOneItAnnounces(t *testing.T) {
	t.Parallel()
	bridge := "devices/pci0000:00/0000:00:02.0"
	root := sysfs(t, bridge+"/pci_bus/0000:05", bridge+"/0000:01:01.0/net/wrong", bridge+"/0000:05:01.0/net/right")
	if name, err := finder(root).WaitInterface(t.Context(), "02/01"); err != nil || name != "right" {
		t.Errorf("%q (%v)", name, err)
	}
}

func TestADeviceThatIsElsewhereIsNotFound(t *testing.T) {
	t.Parallel()
	root := sysfs(t, "devices/pci0000:00/0000:00:03.0/virtio1/net/eth0", "devices/pci0000:00/0000:00:04.0/virtio1/block/vda",
		"devices/css0/0.0.0004/0.0.0001/virtio2/net/enc1")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, device := range []string{"02", "03.1", "04", "03/01", "20/00/03", "0.0.0002", "0.1.0001"} {
		if name, err := finder(root).WaitInterface(gone, device); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %q (%v)", device, name, err)
		}
	}
}

func TestADevicePathThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	for _, device := range []string{
		"", "/", "02/", "/02", "..", "../..", "02/../03", "02//01", "20", "20/01", "1ff/00/02", "100", "02.8", "02.", ".1", "g", "+2", "-1",
		"02 ", "02\x00", "0.4.0001", "0.0.00g1", "0.0.*", "*", strings.Repeat("01/", 20) + "01", strings.Repeat("0", 1000),
	} {
		if name, err := finder(sysfs(t)).WaitInterface(t.Context(), device); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %q (%v)", device, name, err)
		}
	}
}

func TestADeviceThatComesLaterIsWaitedFor(t *testing.T) {
	t.Parallel()
	root := sysfs(t)
	synctest.Test(t, func(t *testing.T) {
		found := make(chan string, 1)
		began := time.Now()
		go func() {
			name, err := finder(root).WaitInterface(t.Context(), "03")
			if err != nil {
				t.Error(err)
			}
			found <- name
		}()
		synctest.Wait()
		if err := os.MkdirAll(filepath.Join(root, "devices/pci0000:00/0000:00:03.0/virtio1/net/eth7"), 0o755); err != nil {
			t.Fatal(err)
		}
		if name := <-found; name != "eth7" || time.Since(began) != lookEvery {
			t.Errorf("%q after %v", name, time.Since(began))
		}
	})
}

func TestADeviceThatNeverComesEndsTheWait(t *testing.T) {
	t.Parallel()
	root := sysfs(t)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if name, err := finder(root).WaitInterface(t.Context(), "03"); !errors.Is(err, ErrNotFound) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%q (%v)", name, err)
		}
		if d := time.Since(began); d != DefaultTimeout {
			t.Errorf("ended after %v", d)
		}
	})
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"02/01", "20/00/02", "0.0.0001", "../x", "1f.7", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseAddress(text)
		if err != nil {
			return
		}
		for _, part := range append(slices.Clone(d.slots), d.root, d.ccw) {
			if strings.Trim(part, "0123456789abcdef.") != "" || strings.Contains(part, "..") {
				t.Fatalf("%q became %+v", text, d)
			}
		}
	})
}
