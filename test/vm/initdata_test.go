// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/agent/policy"
	"cocoon/mkimage/qemu"
	"cocoon/test/vm"
)

// initdataDisk makes a disk by which a shim hands over the owner's document.
func initdataDisk(t *testing.T) qemu.Disk {
	t.Helper()
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	if _, err := w.Write([]byte("algorithm = \"sha384\"\nversion = \"0.1.0\"\n\n[data]\n\"policy.rego\" = '''\n" + policy.AllowAll() + "'''\n")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	disk := binary.LittleEndian.AppendUint64([]byte("initdata"), uint64(gz.Len()))
	disk = append(disk, gz.Bytes()...)
	disk = append(disk, make([]byte, 512-len(disk)%512)...)
	file := filepath.Join(t.TempDir(), "initdata")
	if err := os.WriteFile(file, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	return qemu.Disk{File: file}
}

// otherDisk makes a disk that is somebody else's.
func otherDisk(t *testing.T) qemu.Disk {
	t.Helper()
	file := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return qemu.Disk{File: file}
}

// TestAGuestOfAShimTakesInitdataFromADisk boots one image with and without
// disks; it listens on vsock, where no client of this test can come.
func TestAGuestOfAShimTakesInitdataFromADisk(t *testing.T) {
	t.Parallel()
	needMachine(t)
	dir := buildGuest(t, "dev-kata")
	for name, tc := range map[string]struct {
		disks   []qemu.Disk
		extra   []string // arguments of QEMU
		expect  []string
		refused bool
	}{
		"the second disk": {
			disks: []qemu.Disk{otherDisk(t), initdataDisk(t)},
			expect: []string{
				`"disk":"/dev/vdb","algorithm":"sha384"`, `"msg":"policy in force"`, `"from":"initdata"`,
				`debug console that the settings ask for is not part of this profile`, `"msg":"ready"`,
			},
		},
		"no disk": {expect: []string{`"msg":"no initdata"`, "every request is refused", `"msg":"ready"`}},
		"a SCSI disk": {
			extra: []string{
				"-device", "virtio-scsi-pci", "-drive", "if=none,id=scsi,format=raw,file=" + initdataDisk(t).File, "-device", "scsi-hd,drive=scsi",
			},
			expect: []string{"Attached SCSI disk", `"disk":"/dev/sda"`, `"from":"initdata"`, `"msg":"ready"`},
		},
		"two disks": {disks: []qemu.Disk{initdataDisk(t), initdataDisk(t)}, expect: []string{"two disks with initdata"}, refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			g, err := vm.Start(t.Context(), dir, vm.Options{
				Disks:  tc.disks,
				Extra:  tc.extra,
				Append: []string{"agent.log=debug", "agent.log_vport=1025", "agent.debug_console", "agent.debug_console_vport=1026"},
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(g.Close)
			expect(t, g, tc.expect...)
			if tc.refused {
				powersOff(t, g)
				if strings.Contains(g.Console(), `"msg":"ready"`) {
					t.Errorf("the guest served all the same:\n%s", g.Console())
				}
			}
		})
	}
}
