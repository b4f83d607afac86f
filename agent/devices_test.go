// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"cocoon/agent/device"
	"cocoon/internal/wire/agentpb"
)

// fakeMachine is a sysfs with two disks, 254:0 at 02/01 and 254:16 at 02/02,
// and a PCI device at 03 that a driver of the kernel serves.
func fakeMachine(t *testing.T) *device.Finder {
	t.Helper()
	needRoot(t)
	root := t.TempDir()
	file := func(name, text string) {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	node := func(name string, kind, major, minor uint32) {
		path := filepath.Join(root, "dev", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mknod(path, kind|0o600, int(unix.Mkdev(major, minor))); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range []string{"vda", "vdb"} {
		file(fmt.Sprintf("devices/pci0000:00/0000:00:02.0/0000:01:0%d.0/virtio%d/block/%s/dev", i+1, i, name), fmt.Sprintf("254:%d\n", i*16))
		node(name, unix.S_IFBLK, 254, uint32(i*16))
	}
	file("devices/pci0000:00/0000:00:03.0/vendor", "0x10de\n")
	node("infiniband/uverbs0", unix.S_IFCHR, 231, 192)
	return device.New(device.Config{Sys: root, Dev: filepath.Join(root, "dev"), Timeout: 1})
}

func hostDevice(path, kind string, major, minor int64) specs.LinuxDevice {
	return specs.LinuxDevice{Path: path, Type: kind, Major: major, Minor: minor}
}

func hostRule(kind string, major, minor int64) specs.LinuxDeviceCgroup {
	return specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: new(major), Minor: new(minor), Access: "rw"}
}

func guestRule(kind string, major, minor int64) specs.LinuxDeviceCgroup {
	r := hostRule(kind, major, minor)
	r.Access = "rwm"
	return r
}

func TestDevicesGetTheGuestsNumbers(t *testing.T) {
	t.Parallel()
	// The host's number of the second disk is the guest's of the first: to
	// rewrite twice would give both containers' paths the same disk.
	spec := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{
		Devices:   []specs.LinuxDevice{hostDevice("/dev/a", "b", 8, 0), hostDevice("/dev/b", "b", 254, 0), hostDevice("/dev/other", "c", 8, 0)},
		Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}, hostRule("b", 8, 0), hostRule("b", 254, 0), hostRule("c", 8, 0)}},
	}}
	_, err := grantDevices(t.Context(), fakeMachine(t), spec, []*agentpb.Device{
		{Type: "blk", Id: "02/01", ContainerPath: "/dev/a"},
		{Type: "blk", Id: "02/02", ContainerPath: "/dev/b"},
	})
	if err != nil {
		t.Fatal(err)
	}
	wantNodes := []specs.LinuxDevice{hostDevice("/dev/a", "b", 254, 0), hostDevice("/dev/b", "b", 254, 16), hostDevice("/dev/other", "c", 8, 0)}
	if !reflect.DeepEqual(spec.Linux.Devices, wantNodes) {
		t.Errorf("nodes %+v, want %+v", spec.Linux.Devices, wantNodes)
	}
	wantRules := []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		hostRule("b", 254, 0), hostRule("b", 254, 16), hostRule("c", 8, 0), guestRule("b", 254, 0), guestRule("b", 254, 16),
	}
	if !reflect.DeepEqual(spec.Linux.Resources.Devices, wantRules) {
		t.Errorf("rules %+v, want %+v", spec.Linux.Resources.Devices, wantRules)
	}
}

func TestADeviceOfASpecificationWithoutResourcesGetsARule(t *testing.T) {
	t.Parallel()
	spec := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{Devices: []specs.LinuxDevice{hostDevice("/dev/a", "b", 8, 0)}}}
	if _, err := grantDevices(t.Context(), fakeMachine(t), spec, []*agentpb.Device{{Type: "blk", Id: "02/01", ContainerPath: "/dev/a"}}); err != nil {
		t.Fatal(err)
	}
	if want := []specs.LinuxDeviceCgroup{guestRule("b", 254, 0)}; !reflect.DeepEqual(spec.Linux.Resources.Devices, want) {
		t.Errorf("rules %+v", spec.Linux.Resources.Devices)
	}
}

func TestADeviceOfTheGuestsKernelChangesTheEnvironment(t *testing.T) {
	t.Parallel()
	spec := &specs.Spec{
		Process: &specs.Process{Env: []string{"PCIDEVICE_NVIDIA_GPU=0000:65:00.0", `PCIDEVICE_NVIDIA_GPU_INFO={"0000:65:00.0":{"id":"0000:65:00.0"}}`, "A=0000:65:00.0"}},
		Linux:   &specs.Linux{},
	}
	granted, err := grantDevices(t.Context(), fakeMachine(t), spec, []*agentpb.Device{
		{Type: "vfio-pci-gk", Id: "vfio1", ContainerPath: "/dev/vfio/1", Options: []string{"0000:65:00.0=03", "0000:66:00.0="}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"PCIDEVICE_NVIDIA_GPU=0000:00:03.0", `PCIDEVICE_NVIDIA_GPU_INFO={"0000:00:03.0":{"id":"0000:00:03.0"}}`, "A=0000:65:00.0"}
	if !reflect.DeepEqual(spec.Process.Env, want) {
		t.Errorf("environment %q, want %q", spec.Process.Env, want)
	}
	if !reflect.DeepEqual(granted.pci, map[string]string{"0000:65:00.0": "0000:00:03.0"}) {
		t.Errorf("addresses %v", granted.pci)
	}
	if d := spec.Linux.Devices; len(d) != 1 || d[0].Path != "/dev/infiniband/uverbs0" || d[0].Major != 231 {
		t.Errorf("nodes for direct memory access: %+v", d)
	}
}

func TestOnlyListsOfKnownAddressesAreTranslated(t *testing.T) {
	t.Parallel()
	guest := map[string]string{"0000:01:00.0": "0000:02:00.0", "0000:02:00.0": "0000:01:00.0"}
	for in, want := range map[string]string{
		"PCIDEVICE_X=0000:01:00.0,0000:02:00.0": "PCIDEVICE_X=0000:02:00.0,0000:01:00.0",
		"PCIDEVICE_X=0000:01:00.0,0000:03:00.0": "PCIDEVICE_X=0000:01:00.0,0000:03:00.0",
		"PCIDEVICE_X=":                          "PCIDEVICE_X=",
		"PCIDEVICE_X":                           "PCIDEVICE_X",
		"PCIDEVICE_X=mdev-1":                    "PCIDEVICE_X=mdev-1",
		"OTHER=0000:01:00.0":                    "OTHER=0000:01:00.0",
	} {
		if got := translatePCI([]string{in}, guest); got[0] != want {
			t.Errorf("%q became %q, want %q", in, got[0], want)
		}
	}
	env := []string{"PCIDEVICE_X_INFO=0000:01:00.0 0000:02:00.0", "PCIDEVICE_X=0000:01:00.0,0000:02:00.0"}
	if got := translatePCI(env, guest); got[0] != "PCIDEVICE_X_INFO=0000:02:00.0 0000:01:00.0" || env[0] == got[0] {
		t.Errorf("%q (the caller's: %q)", got[0], env[0])
	}
}

func TestDevicesThatAreNotSoundAreRefused(t *testing.T) {
	t.Parallel()
	f := fakeMachine(t)
	many := make([]*agentpb.Device, maxDevices+1)
	for i := range many {
		many[i] = &agentpb.Device{Type: "blk", Id: "02/01", ContainerPath: fmt.Sprint("/dev/", i)}
	}
	ok := func() *agentpb.Device { return &agentpb.Device{Type: "blk", Id: "02/01", ContainerPath: "/dev/a"} }
	for what, tc := range map[string]struct {
		list []*agentpb.Device
		want error
		text string
	}{
		"too many":             {many, ErrInvalid, "257 devices"},
		"no type":              {[]*agentpb.Device{{Id: "02/01", ContainerPath: "/dev/a"}}, ErrInvalid, "invalid type"},
		"no id":                {[]*agentpb.Device{{Type: "blk", ContainerPath: "/dev/a"}}, ErrInvalid, "invalid ID"},
		"no path":              {[]*agentpb.Device{{Type: "blk", Id: "02/01"}}, ErrInvalid, "invalid container path"},
		"unknown type":         {[]*agentpb.Device{{Type: "9p", Id: "02/01", ContainerPath: "/dev/a"}}, ErrInvalid, "Failed to find the device handler"},
		"one path twice":       {[]*agentpb.Device{ok(), ok()}, ErrInvalid, "two devices"},
		"not in specification": {[]*agentpb.Device{{Type: "blk", Id: "02/01", ContainerPath: "/dev/x"}}, ErrInvalid, "Missing devices in OCI spec"},
		"same on the host": {[]*agentpb.Device{ok(), {Type: "blk", Id: "02/02", ContainerPath: "/dev/same"}}, ErrInvalid,
			"are the same on the host"},
		"never comes":        {[]*agentpb.Device{{Type: "blk", Id: "05", ContainerPath: "/dev/a"}}, device.ErrNotFound, "not found"},
		"path of a file":     {[]*agentpb.Device{{Type: "mmioblk", VmPath: "/etc/passwd", ContainerPath: "/dev/a"}}, ErrInvalid, "is not named"},
		"path that leads up": {[]*agentpb.Device{{Type: "mmioblk", VmPath: "/dev/vd/../../etc", ContainerPath: "/dev/a"}}, ErrInvalid, "is not named"},
		"VFIO without place": {[]*agentpb.Device{{Type: "vfio-pci", Id: "x", ContainerPath: "/dev/a", Options: []string{"0000:01:00.0="}}}, ErrInvalid, "no place"},
		"VFIO without host":  {[]*agentpb.Device{{Type: "vfio-pci", Id: "x", ContainerPath: "/dev/a", Options: []string{"03"}}}, ErrInvalid, "VFIO option"},
		"VFIO without group": {[]*agentpb.Device{{Type: "vfio-pci", Id: "x", ContainerPath: "/dev/a", Options: []string{"0000:01:00.0=03"}}}, os.ErrNotExist, "vfio-pci"},
		"queue without bus":  {[]*agentpb.Device{{Type: "vfio-ap", Id: "x", ContainerPath: "/dev/a", Options: []string{"05.0039"}}}, os.ErrNotExist, "AP queues"},
	} {
		spec := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{Devices: []specs.LinuxDevice{hostDevice("/dev/a", "b", 8, 0), hostDevice("/dev/same", "b", 8, 0)}}}
		_, err := grantDevices(t.Context(), f, spec, tc.list)
		if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestAContainerWhoseDeviceIsMissingIsNotMade(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{change: func(d *Deps) { d.Devices = fakeMachine(t) }})
	r := g.container("with-disk", "true")
	r.Devices = []*agentpb.Device{{Type: "blk", Id: "07", ContainerPath: "/dev/xvda"}}
	r.OCI.Linux.Devices = []*agentpb.LinuxDevice{{Path: "/dev/xvda", Type: "b", Major: 8}}
	_, err := g.CreateContainer(t.Context(), r)
	wantStatus(t, err, codes.Internal, `blk device "07": device not found`)
	r.Devices = nil
	r.OCI.Linux.Devices = nil
	g.created(t, r)
}

func TestEveryReportedDeviceTypeIsHandled(t *testing.T) {
	t.Parallel()
	f := device.New(device.Config{Sys: t.TempDir(), Dev: t.TempDir(), Timeout: 1})
	for _, kind := range deviceTypes() {
		_, err := findDevice(t.Context(), f, &agentpb.Device{Type: kind, Id: "x", VmPath: "x", ContainerPath: "/dev/a", Options: []string{"bad"}})
		if err == nil || strings.Contains(err.Error(), "device handler") {
			t.Errorf("%s: %v", kind, err)
		}
	}
}
