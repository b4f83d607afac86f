// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// machine is a sysfs and a device directory of a test's own.
type machine struct {
	*Finder
	t   *testing.T
	sys string
}

func newMachine(t *testing.T) machine {
	t.Helper()
	root := t.TempDir()
	return machine{Finder: finder(root), t: t, sys: root}
}

// numbered gives the directory a "dev" attribute.
func (m machine) numbered(dir string, major, minor int) {
	m.t.Helper()
	m.file(dir+"/dev", fmt.Sprintf("%d:%d\n", major, minor))
}

func (m machine) file(name, text string) string {
	m.t.Helper()
	path := filepath.Join(m.sys, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// node makes a special file; nothing opens it.
func (m machine) node(name string, kind uint32, major, minor uint32) {
	m.t.Helper()
	path := filepath.Join(m.sys, "dev", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := unix.Mknod(path, kind|0o600, int(unix.Mkdev(major, minor))); err != nil {
		m.t.Fatalf("make device node: %v", err)
	}
}

func (m machine) link(target, name string) {
	m.t.Helper()
	path := filepath.Join(m.sys, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		m.t.Fatal(err)
	}
}

func TestADiskIsFoundByItsAddress(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		driver, address, dir, name string
	}{
		{DriverBlk, "02/01", "devices/pci0000:00/0000:00:02.0/0000:01:01.0/virtio4/block/vdb", "vdb"},
		{DriverBlk, "05", "devices/pci0000:00/0000:00:05.0/virtio2/block/vda", "vda"},
		{DriverBlkCCW, "0.0.0005", "devices/css0/0.0.0003/0.0.0005/virtio5/block/vdc", "vdc"},
		{DriverMMIOBlk, "/dev/vdd", "class/block/vdd", "vdd"},
		{DriverNVDIMM, "/dev/pmem0", "class/block/pmem0", "pmem0"},
	} {
		m := newMachine(t)
		m.numbered(tc.dir, 254, 16)
		m.node(tc.name, unix.S_IFBLK, 254, 16)
		n, err := m.Block(t.Context(), tc.driver, tc.address)
		want := Node{Path: filepath.Join(m.sys, "dev", tc.name), Type: "b", Major: 254, Minor: 16}
		if err != nil || n != want {
			t.Errorf("%s %s: %+v (%v), want %+v", tc.driver, tc.address, n, err, want)
		}
	}
}

// scsiDisk makes the disk 0:0:id:unit of a controller.
func (m machine) scsiDisk(host int, id, unit int, name, controller string) {
	m.t.Helper()
	address := fmt.Sprintf("%d:0:%d:%d", host, id, unit)
	dir := fmt.Sprintf("devices/pci0000:00/0000:00:02.0/%s/host%d/target/%s", controller, host, address)
	m.numbered(dir+"/block/"+name, 8, 0)
	m.link(filepath.Join(m.sys, dir), "bus/scsi/devices/"+address)
}

func TestASCSIDiskIsFoundByIDAndUnit(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	scan := m.file("class/scsi_host/host0/scan", "")
	m.scsiDisk(0, 3, 7, "sda", "ata1") // not of a virtio controller
	m.scsiDisk(1, 3, 7, "sdb", "virtio1")
	m.scsiDisk(1, 3, 8, "sdc", "virtio1")
	m.node("sdb", unix.S_IFBLK, 8, 0)
	n, err := m.Block(t.Context(), DriverSCSI, "3:7")
	if err != nil || filepath.Base(n.Path) != "sdb" {
		t.Errorf("%+v (%v)", n, err)
	}
	if b, err := os.ReadFile(scan); err != nil || string(b) != "0 3 7" {
		t.Errorf("the controller was asked for %q (%v)", b, err)
	}
}

func TestTwoDisksAtOneAddressAreRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.scsiDisk(0, 0, 0, "sda", "virtio0")
	m.scsiDisk(1, 0, 0, "sdb", "virtio1")
	if n, err := m.Block(t.Context(), DriverSCSI, "0:0"); !errors.Is(err, ErrUnsuitable) {
		t.Errorf("scsi: %+v (%v)", n, err)
	}
	for _, name := range []string{"vda", "vdb"} {
		m.numbered("devices/pci0000:00/0000:00:02.0/virtio0/block/"+name, 254, 0)
	}
	if n, err := m.Block(t.Context(), DriverBlk, "02"); !errors.Is(err, ErrUnsuitable) {
		t.Errorf("blk: %+v (%v)", n, err)
	}
}

func TestAControllerThatCannotLookIsAnErrorOnlyIfNoneCan(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	if err := os.MkdirAll(filepath.Join(m.sys, "class/scsi_host/host0"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Block(t.Context(), DriverSCSI, "0:0"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("no controller looked, yet: %v", err)
	}
	m.file("class/scsi_host/host1/scan", "")
	m.scsiDisk(1, 0, 0, "sda", "virtio1")
	m.node("sda", unix.S_IFBLK, 8, 0)
	if _, err := m.Block(t.Context(), DriverSCSI, "0:0"); err != nil {
		t.Error(err)
	}
}

func TestAnAddressThatIsNoneOfTheDriversIsRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for driver, addresses := range map[string][]string{
		DriverBlk:     {"", "0.0.0001", "/dev/vda", "../02", "02/../03", strings.Repeat("02/", 99)},
		DriverBlkCCW:  {"", "02", "0.0.1", "0.4.0001", "0.0.*", "0.0.000G"},
		DriverSCSI:    {"", "1", "1:", ":1", "1:2:3", "-1:0", "+1:0", "01:0", "256:0", "0:16384", "0:0 ", "*:*", "0x1:0"},
		DriverMMIOBlk: {"", "vda", "/dev/", "/dev/vd", "/dev/sda", "/dev/vd/a", "/dev/../vda", "/dev/vda/../sda", "/dev/vd*", "/dev/dm-0", "/dev/vdaaaaaaaaa"},
		DriverNVDIMM:  {"", "/dev/vda", "/dev/pmem", "/dev/pmem..", "/dev/pmem0/x", "/dev/mapper/pmem0"},
		"9p":          {"02"},
		"":            {"02"},
	} {
		for _, a := range addresses {
			if n, err := m.Block(t.Context(), driver, a); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s %q: %+v (%v)", driver, a, n, err)
			}
		}
	}
}

func TestANodeThatIsNotTheDiskIsRefused(t *testing.T) {
	t.Parallel()
	dir := "devices/pci0000:00/0000:00:05.0/virtio2/block/vda"
	for what, make := range map[string]func(machine){
		"character device": func(m machine) { m.node("vda", unix.S_IFCHR, 254, 0) },
		"other numbers":    func(m machine) { m.node("vda", unix.S_IFBLK, 254, 1) },
		"plain file":       func(m machine) { m.file("dev/vda", "") },
		"link": func(m machine) {
			m.node("vdz", unix.S_IFBLK, 254, 0)
			m.link("vdz", "dev/vda")
		},
	} {
		m := newMachine(t)
		m.numbered(dir, 254, 0)
		make(m)
		if n, err := m.Block(t.Context(), DriverBlk, "05"); !errors.Is(err, ErrUnsuitable) {
			t.Errorf("%s: %+v (%v)", what, n, err)
		}
	}
}

func TestNumbersThatAreNoneAreAnError(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "254", "a:b", "254:", "1:2:3", "99999999999:0"} {
		m := newMachine(t)
		m.file("class/block/vda/dev", text)
		m.node("vda", unix.S_IFBLK, 254, 0)
		if n, err := m.Block(t.Context(), DriverMMIOBlk, "/dev/vda"); err == nil {
			t.Errorf("%q: %+v", text, n)
		}
	}
}

func TestANodeThatComesAfterItsDirectoryIsWaitedFor(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.numbered("class/block/vda", 254, 0)
	synctest.Test(t, func(t *testing.T) {
		done := make(chan error, 1)
		go func() {
			_, err := m.Block(t.Context(), DriverMMIOBlk, "/dev/vda")
			done <- err
		}()
		synctest.Wait()
		m.node("vda", unix.S_IFBLK, 254, 0)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestOnlyDisksDirectlyBelowDevExist(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.node("vda", unix.S_IFBLK, 254, 0)
	m.node("null", unix.S_IFCHR, 1, 3)
	m.node("mapper/secret", unix.S_IFBLK, 253, 0)
	m.link("mapper/secret", "dev/alias")
	if n, err := m.Existing("/dev/vda"); err != nil || n.Number() != "254:0" {
		t.Errorf("%+v (%v)", n, err)
	}
	for path, want := range map[string]error{
		"": ErrInvalid, "vda": ErrInvalid, "/dev/": ErrInvalid, "/dev/..": ErrInvalid, "/dev/.": ErrInvalid, "/dev/mapper/secret": ErrInvalid,
		"/dev/../dev/vda": ErrInvalid, "/dev/vda\x00": ErrInvalid, "/etc/vda": ErrInvalid,
		"/dev/null": ErrUnsuitable, "/dev/alias": ErrUnsuitable, "/dev/mapper": ErrUnsuitable, "/dev/vdb": ErrNotFound,
	} {
		if n, err := m.Existing(path); !errors.Is(err, want) {
			t.Errorf("%q: %+v (%v), want %v", path, n, err, want)
		}
	}
}

func TestAPartitionIsFoundByItsName(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.numbered("class/block/vda2", 254, 2)
	m.file("class/block/vda2/uevent", "MAJOR=254\nMINOR=2\nDEVTYPE=partition\nPARTN=2\nPARTNAME=trusted_store\n")
	m.file("class/block/vda1/uevent", "DEVTYPE=partition\nPARTNAME=trusted_store_not\n")
	m.node("vda2", unix.S_IFBLK, 254, 2)
	if n, err := m.Named(t.Context(), "trusted_store"); err != nil || n.Number() != "254:2" {
		t.Errorf("%+v (%v)", n, err)
	}
	m.file("class/block/vdb1/uevent", "PARTNAME=trusted_store\n")
	if n, err := m.Named(t.Context(), "trusted_store"); !errors.Is(err, ErrUnsuitable) {
		t.Errorf("two of them: %+v (%v)", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := m.Named(ctx, "store"); !errors.Is(err, ErrNotFound) {
		t.Errorf("none: %+v (%v)", n, err)
	}
}

func TestAPartitionOfADiskIsFoundByItsNumber(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for disk, part := range map[string]string{"vda": "vda3", "nvme0n1": "nvme0n1p3"} {
		m.numbered("class/block/"+disk+"/"+part, 254, 3)
		m.node(part, unix.S_IFBLK, 254, 3)
		n, err := m.Partition(t.Context(), Node{Path: "/dev/" + disk}, 3)
		if err != nil || filepath.Base(n.Path) != part {
			t.Errorf("%s: %+v (%v)", disk, n, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := m.Partition(ctx, Node{Path: "/dev/vda"}, 4); !errors.Is(err, ErrNotFound) {
		t.Errorf("%+v (%v)", n, err)
	}
}

// announcer is a Watcher whose changes the test makes.
type announcer struct {
	changed chan struct{}
	closed  bool
}

func (a *announcer) Changed() <-chan struct{} { return a.changed }
func (a *announcer) Close() error             { a.closed = true; return nil }

func TestAnAnnouncedDeviceIsFoundAtOnce(t *testing.T) {
	t.Parallel()
	root := sysfs(t)
	synctest.Test(t, func(t *testing.T) {
		a := &announcer{changed: make(chan struct{})}
		f := New(Config{Sys: root, Watch: func() (Watcher, error) { return a, nil }})
		done := make(chan error, 1)
		began := time.Now()
		go func() {
			_, err := f.WaitInterface(t.Context(), "03")
			done <- err
		}()
		synctest.Wait()
		if err := os.MkdirAll(filepath.Join(root, "devices/pci0000:00/0000:00:03.0/virtio1/net/eth7"), 0o755); err != nil {
			t.Fatal(err)
		}
		a.changed <- struct{}{}
		if err := <-done; err != nil || time.Since(began) != 0 || !a.closed {
			t.Errorf("%v after %v, watch closed: %v", err, time.Since(began), a.closed)
		}
	})
}
