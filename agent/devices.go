// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cocoon/agent/device"
	"cocoon/internal/wire/agentpb"
)

// maxDevices bounds the devices of one container.
const maxDevices = 256

// Types of devices, as shims send them, beside the drivers of disks.
const (
	typeVFIOGuest = "vfio-pci-gk" // PCI, bound to a driver of the guest's kernel
	typeVFIO      = "vfio-pci"    // PCI, bound to vfio-pci
	typeVFIOAP    = "vfio-ap"     // crypto queues of s390x
)

// deviceTypes lists the types of devices that findDevice knows, sorted, for
// GetGuestDetails.
func deviceTypes() []string {
	return []string{
		device.DriverBlk, device.DriverBlkCCW, device.DriverMMIOBlk, device.DriverNVDIMM, device.DriverSCSI,
		typeVFIOAP, typeVFIO, typeVFIOGuest,
	}
}

// infinibandMode is how drivers of RDMA devices make their nodes.
const infinibandMode = fs.FileMode(0o666)

// granted is a device of a container after it was found in the guest.
type granted struct {
	containerPath string
	newPath       string      // where it is to be in the container; "" leaves it
	node          device.Node // zero if the container gets no node
	pci           map[string]string
}

// grantDevices finds the devices of a request and puts the guest's numbers into
// the specification, where the host has written its own: nodes, access rules
// and the PCI addresses in environment variables.
func grantDevices(ctx context.Context, f *device.Finder, spec *specs.Spec, list []*agentpb.Device) (grants, error) {
	if err := checkDevices(list); err != nil {
		return grants{}, err
	}
	var all []granted
	pci := map[string]string{}
	vfio := false
	for _, d := range list {
		g, err := findDevice(ctx, f, d)
		if errors.Is(err, device.ErrInvalid) {
			err = fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if err != nil {
			return grants{}, fmt.Errorf("device %q: %w", d.GetContainerPath(), err)
		}
		all = append(all, g)
		for host, guest := range g.pci {
			pci[host] = guest
		}
		vfio = vfio || strings.HasPrefix(d.GetType(), "vfio-pci")
	}
	if err := updateDevices(spec.Linux, all); err != nil {
		return grants{}, err
	}
	if vfio {
		if err := addInfiniband(f, spec.Linux); err != nil {
			return grants{}, err
		}
	}
	if spec.Process != nil {
		spec.Process.Env = translatePCI(spec.Process.Env, pci)
	}
	nodes := map[string]device.Node{}
	for _, g := range all {
		if g.node.Path != "" {
			nodes[g.containerPath] = g.node
		}
	}
	return grants{pci: pci, nodes: nodes}, nil
}

// grants are the devices of a container.
type grants struct {
	pci   map[string]string      // PCI addresses, the guest's by the host's
	nodes map[string]device.Node // by the path that the request gave
}

func checkDevices(list []*agentpb.Device) error {
	if len(list) > maxDevices {
		return fmt.Errorf("%d devices: %w", len(list), ErrInvalid)
	}
	seen := map[string]bool{}
	for _, d := range list {
		path := d.GetContainerPath()
		switch {
		case d.GetType() == "":
			return fmt.Errorf("invalid type for device %q: %w", path, ErrInvalid)
		case d.GetId() == "" && d.GetVmPath() == "":
			return fmt.Errorf("invalid ID and VM path for device %q: %w", path, ErrInvalid)
		case path == "":
			return fmt.Errorf("invalid container path for device %q: %w", d.GetId(), ErrInvalid)
		case seen[path]:
			return fmt.Errorf("two devices at %q: %w", path, ErrInvalid)
		}
		seen[path] = true
	}
	return nil
}

func findDevice(ctx context.Context, f *device.Finder, d *agentpb.Device) (granted, error) {
	g := granted{containerPath: d.GetContainerPath()}
	var err error
	switch t := d.GetType(); t {
	case device.DriverBlk, device.DriverBlkCCW, device.DriverSCSI:
		g.node, err = f.Block(ctx, t, d.GetId())
	case device.DriverMMIOBlk, device.DriverNVDIMM:
		g.node, err = f.Block(ctx, t, d.GetVmPath())
	case typeVFIOGuest:
		g.pci, err = findPCI(ctx, f, d.GetOptions())
	case typeVFIO:
		err = g.bindVFIO(ctx, f, d.GetOptions())
	case typeVFIOAP:
		g.node, err = f.AP(ctx, d.GetOptions())
		g.newPath = "/dev/z90crypt"
	default:
		err = fmt.Errorf("Failed to find the device handler %q: %w", t, ErrInvalid) //nolint:staticcheck // peers match this text
	}
	return g, err
}

// vfioOption takes apart "DDDD:BB:SS.F=<PCI path>": the device's address on
// the host and its place in the guest, which is empty if the host does not
// know it.
func vfioOption(text string) (host, path string, err error) {
	host, path, ok := strings.Cut(text, "=")
	if !ok || !device.IsPCIAddress(host) {
		return "", "", fmt.Errorf("VFIO option %.80q: %w", text, ErrInvalid)
	}
	return host, path, nil
}

// findPCI waits for devices that drivers of the guest's kernel serve.
func findPCI(ctx context.Context, f *device.Finder, options []string) (map[string]string, error) {
	addresses := map[string]string{}
	for _, o := range options {
		host, path, err := vfioOption(o)
		if err != nil {
			return nil, err
		}
		if path == "" {
			continue
		}
		if addresses[host], err = f.PCI(ctx, path); err != nil {
			return nil, err
		}
	}
	return addresses, nil
}

// bindVFIO hands the devices of one IOMMU group to the container.
func (g *granted) bindVFIO(ctx context.Context, f *device.Finder, options []string) error {
	g.pci = map[string]string{}
	for _, o := range options {
		host, path, err := vfioOption(o)
		if err != nil {
			return err
		}
		if path == "" {
			continue
		}
		address, group, err := f.VFIO(ctx, path)
		if err != nil {
			return err
		}
		if g.node.Path != "" && g.node != group {
			return fmt.Errorf("PCI devices of several IOMMU groups: %w", device.ErrUnsuitable)
		}
		g.pci[host], g.node = address, group
	}
	if g.node.Path == "" {
		return fmt.Errorf("no place of a VFIO device is known: %w", ErrInvalid)
	}
	g.newPath = "/dev/vfio/" + g.node.Path[strings.LastIndexByte(g.node.Path, '/')+1:]
	return nil
}

// hostNumbers are those of a device on the host, as its specification has them.
type hostNumbers struct {
	kind         string
	major, minor int64
}

// updateDevices replaces the host's device numbers by the guest's. First all
// nodes and rules are rewritten, and only then are rules added: one for a
// guest's device may look like another device's on the host.
func updateDevices(linux *specs.Linux, all []granted) error {
	byHost := map[hostNumbers]granted{}
	for _, g := range all {
		if g.node.Path == "" {
			continue
		}
		entry := deviceEntry(linux.Devices, g.containerPath)
		if entry == nil {
			return fmt.Errorf("Missing devices in OCI spec: %q: %w", g.containerPath, ErrInvalid) //nolint:staticcheck // upstream's text
		}
		host := hostNumbers{entry.Type, entry.Major, entry.Minor}
		if other, twice := byHost[host]; twice {
			return fmt.Errorf("devices %q and %q are the same on the host: %w", other.containerPath, g.containerPath, ErrInvalid)
		}
		byHost[host] = g
		entry.Type, entry.Major, entry.Minor = g.node.Type, g.node.Major, g.node.Minor
		if g.newPath != "" {
			entry.Path = g.newPath
		}
	}
	if len(byHost) == 0 {
		return nil
	}
	if linux.Resources == nil {
		linux.Resources = &specs.LinuxResources{}
	}
	rules := linux.Resources.Devices
	for i, r := range rules {
		if r.Major == nil || r.Minor == nil {
			continue
		}
		if g, ours := byHost[hostNumbers{r.Type, *r.Major, *r.Minor}]; ours {
			rules[i].Type, rules[i].Major, rules[i].Minor = g.node.Type, new(g.node.Major), new(g.node.Minor)
		}
	}
	for _, g := range all {
		if g.node.Path != "" {
			rules = append(rules, allow(g.node))
		}
	}
	linux.Resources.Devices = rules
	return nil
}

func deviceEntry(list []specs.LinuxDevice, path string) *specs.LinuxDevice {
	for i := range list {
		if list[i].Path == path {
			return &list[i]
		}
	}
	return nil
}

func allow(n device.Node) specs.LinuxDeviceCgroup {
	return specs.LinuxDeviceCgroup{Allow: true, Type: n.Type, Major: new(n.Major), Minor: new(n.Minor), Access: "rwm"}
}

// addInfiniband gives a container that has a PCI device the guest's nodes for
// remote direct memory access: which of them belong to the device only its
// driver knows.
func addInfiniband(f *device.Finder, linux *specs.Linux) error {
	nodes, err := f.Characters("infiniband")
	if err != nil {
		return fmt.Errorf("find infiniband devices: %w", err)
	}
	if len(nodes) > 0 && linux.Resources == nil {
		linux.Resources = &specs.LinuxResources{}
	}
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		n, path := nodes[name], "/dev/infiniband/"+name
		if deviceEntry(linux.Devices, path) != nil {
			continue
		}
		linux.Devices = append(linux.Devices, specs.LinuxDevice{
			Path: path, Type: n.Type, Major: n.Major, Minor: n.Minor, FileMode: new(infinibandMode),
		})
		linux.Resources.Devices = append(linux.Resources.Devices, allow(n))
	}
	return nil
}
